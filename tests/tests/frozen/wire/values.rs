//! One value of each message, each field set that was there when it was frozen.

use ship_proto::v1::*;

pub(super) fn digest(byte: u8) -> Vec<u8> {
    vec![byte; 32]
}

pub(super) fn text(text: &str) -> String {
    text.to_owned()
}

pub(super) fn delta_offer() -> DeltaOffer {
    DeltaOffer {
        app: text("web"),
        base: digest(21),
        release: digest(22),
        delta: digest(23),
    }
}

pub(super) fn target(number: u64) -> Target {
    Target {
        number,
        id: digest(number as u8),
    }
}

pub(super) fn record() -> ReleaseRecord {
    ReleaseRecord {
        app: text("web"),
        release: Some(target(455)),
        label: Some(text("spring sale")),
        commit: Some(text("1f0c")),
        dirty: true,
        publisher: text("publisher/ci"),
        published_at_ms: 1_760_000_000_000,
        bundle: Some(digest(2)),
        files: 3,
        bytes: 4,
        new_bytes: 5,
        stored_bytes: 6,
        collected_at_ms: 0,
        pinned: String::new(),
    }
}

pub(super) fn desired_app() -> DesiredApp {
    DesiredApp {
        app: text("web"),
        env: text("production"),
        epoch: 41,
        deploy: 7,
        run: Some(target(455)),
        runs_app: true,
        stage: vec![target(454), target(455)],
        assets: vec![target(453)],
    }
}

pub(super) fn figures() -> UpdateFigures {
    UpdateFigures {
        fetched_bytes: 1,
        stage_ms: 2,
        switch_ms: 3,
        lost_requests: 4,
        // Came later: an old agent does not say it.
        ..UpdateFigures::default()
    }
}

pub(super) fn failure() -> AppFailure {
    AppFailure {
        epoch: 40,
        release: Some(target(456)),
        step: text("probe"),
        reason: text("503"),
        last_lines: vec![text("no database"), text("bye")],
        transient: true,
    }
}

pub(super) fn hold() -> LocalHold {
    LocalHold {
        epoch: 39,
        from: Some(target(456)),
        to: Some(target(455)),
        reason: text("blank"),
        at_ms: 1_760_000_000_001,
    }
}

pub(super) fn app_report() -> AppReport {
    AppReport {
        app: text("web"),
        epoch: 41,
        running: Some(target(455)),
        deploy: 7,
        healthy: true,
        phase: AppPhase::Reverting.into(),
        previous: Some(target(454)),
        staged: vec![target(454), target(455)],
        assets: vec![target(453)],
        failure: Some(failure()),
        held: Some(hold()),
        // One entry: the order of several is not the same from run to run.
        listen: [(text("http"), text("127.0.0.21:8080"))].into(),
        update: Some(figures()),
        connections: 8,
        restarts: 9,
        // What came later: an old agent does not say it.
        ..AppReport::default()
    }
}

pub(super) fn host_report() -> HostReport {
    HostReport {
        classes: vec![text("web"), text("assets")],
        apps: vec![app_report()],
        disk_free: 10,
        disk_total: 11,
        asset_url: Some(text("http://127.0.0.21:7480")),
        agent_version: text("0.1.0"),
        // What came later: an old agent does not say it.
        ..HostReport::default()
    }
}

pub(super) fn memory() -> AppMemory {
    AppMemory {
        // One entry: the order of several is not the same from run to run.
        used: [(text("web"), 26)].into(),
        free: 27,
        whose: text("on the host"),
    }
}

pub(super) fn missing() -> MissingPrivilege {
    MissingPrivilege {
        what: text("CAP_KILL"),
        instead: text("processes that become another user cannot be ended"),
    }
}

pub(super) fn log_line() -> LogLine {
    LogLine {
        at_ms: 1_760_000_000_002,
        app: text("web"),
        host: text("h1"),
        pid: 4242,
        release: 455,
        deploy: 7,
        generation: 12,
        stream: text("stderr"),
        line: text("listening"),
    }
}

pub(super) fn host_line() -> HostLine {
    HostLine {
        host: text("h1"),
        state: text("done"),
        detail: text("403 ms"),
        // Came later.
        new_bytes: None,
        shared_bytes: None,
    }
}

pub(super) fn step_view() -> StepView {
    StepView {
        number: 1,
        name: text("rest 1/2"),
        state: text("running"),
        hosts: vec![host_line()],
        detail: text("1 of 2"),
        started_at_ms: 12,
        ended_at_ms: 13,
        // Came later.
        takes_ms: None,
        back: None,
        gates: vec![],
    }
}

pub(super) fn gate_line() -> GateLine {
    GateLine {
        gate: text("go"),
        kind: text("approval"),
        state: text("waiting"),
        detail: text("approval by 2 operators"),
        by: vec![text("operator/alice: fine")],
        wanted: 1,
    }
}

pub(super) fn rollout_view() -> RolloutView {
    RolloutView {
        app: text("web"),
        env: text("production"),
        deploy: 7,
        kind: text("promote"),
        from: Some(target(454)),
        to: Some(target(455)),
        who: text("operator/alice"),
        message: text("spring sale"),
        started_at_ms: 14,
        ended_at_ms: 15,
        steps: vec![step_view()],
        outcome: OutcomeKind::Aborted.into(),
        reason: text("h2: probe"),
        last_lines: vec![text("no database")],
        paused: true,
        excused: vec![text("h3: uncertain for 40 s")],
        plan_id: text("ab12"),
        // Came later.
        skipped_gates: vec![],
    }
}

pub(super) fn verified() -> VerifiedRelease {
    VerifiedRelease {
        app: text("web"),
        release: Some(target(455)),
        files: 1,
        bytes_read: 2,
        damage: vec![text("bin/server: other bytes")],
        // Came later.
        extra: vec![],
    }
}

pub(super) fn app_host() -> AppHost {
    AppHost {
        host: text("h1"),
        state: text("available"),
        report: Some(app_report()),
        desired: Some(target(455)),
        runs_app: true,
    }
}

pub(super) fn app_status() -> AppStatus {
    AppStatus {
        app: text("web"),
        env: text("production"),
        release: Some(target(455)),
        deploy: 7,
        epoch: 41,
        rollout: Some(rollout_view()),
        asset_urls: vec![text("http://127.0.0.21:7480")],
        hosts: vec![app_host()],
        held: text("reverted"),
    }
}

pub(super) fn host_status() -> HostStatus {
    HostStatus {
        env: text("production"),
        host: text("h1"),
        state: text("upgrading"),
        last_seen_ms: 16,
        report: Some(host_report()),
        standing: None,
    }
}

pub(super) fn standing() -> Standing {
    Standing {
        duty: text("drained"),
        who: text("operator/alice"),
        reason: text("new memory"),
        at_ms: 21,
    }
}

pub(super) fn logs_reply() -> LogsReply {
    LogsReply {
        request: 3,
        lines: vec![log_line()],
        done: true,
        error: text("no such app"),
    }
}

pub(super) fn hello() -> Hello {
    Hello {
        env: text("production"),
        host: text("h1"),
        agent_version: text("0.1.0"),
    }
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        // Came later.
        hears_asked: false,
        heartbeat_ms: 5_000,
        store_version: text("0.1.0"),
    }
}

pub(super) fn logs_query() -> LogsQuery {
    LogsQuery {
        request: 3,
        app: text("web"),
        lines: 100,
        follow: true,
        release: 455,
        cancel: true,
    }
}

pub(super) fn rot() -> AssetRot {
    AssetRot {
        found: 2,
        mended: 1,
        url: text("/static/main.3f9a12bc.js"),
    }
}

pub(super) fn host_figures() -> HostFigures {
    HostFigures {
        asset_requests: 1,
        asset_bytes: 2,
        asset_not_found: 3,
        asset_broken: 4,
        asset_expired: 8,
        asset_rotten: 5,
        asset_healed: 6,
        fetched_bytes: 7,
        // Came later: an old agent does not say it.
        ..HostFigures::default()
    }
}

pub(super) fn fault() -> SourceFault {
    SourceFault {
        source: text("peer h7"),
        reason: text("other bytes came than were published"),
        at_ms: 1_760_000_000_002,
    }
}

pub(super) fn peer() -> PeerAddress {
    PeerAddress {
        host: text("h7"),
        address: text("10.0.0.7:7410"),
    }
}

pub(super) fn sources() -> Sources {
    Sources {
        mirrors: vec![text("http://10.0.0.9/ship"), text("https://m.example.com")],
        peers: vec![peer()],
    }
}

pub(super) fn asked() -> AssetsAsked {
    AssetsAsked {
        number: 3,
        run: 1_760_000_000_000,
        digests: [digest(15), digest(16)].concat(),
    }
}

pub(super) fn incident() -> AssetIncident {
    AssetIncident {
        release: Some(target(455)),
        count: 2,
        url: text("/a.js"),
    }
}

pub(super) fn asset_reason() -> AssetReason {
    AssetReason {
        kind: text("young"),
        words: text("release 455 was published or left less than min_age ago"),
        until_ms: 24,
        release: 455,
    }
}

pub(super) fn found_asset() -> FoundAsset {
    FoundAsset {
        app: text("web"),
        release: Some(target(455)),
        digest: digest(17),
        bytes: 25,
    }
}

pub(super) fn release_line() -> ReleaseLine {
    ReleaseLine {
        record: Some(record()),
        live_in: vec![text("production")],
        flags: vec![text("reverted")],
    }
}

pub(super) fn sweep_marked() -> SweepMarked {
    SweepMarked {
        assets: 26,
        bytes: 27,
        wait_ms: 28,
    }
}

pub(super) fn swept() -> Swept {
    Swept {
        assets: 29,
        bytes: 30,
        spared: 31,
        files: 32,
    }
}

pub(super) fn delta() -> Delta {
    Delta {
        delta: digest(21),
        base: digest(19),
        bytes: 22,
    }
}

pub(super) fn expired() -> Expired {
    Expired {
        app: text("web"),
        list: digest(15),
        paths: 2,
    }
}

pub(super) fn followed() -> SweepFollowed {
    SweepFollowed {
        done: vec![text("production/h1")],
        behind: vec![text("production/h2")],
    }
}

pub(super) fn no_return() -> NoReturn {
    NoReturn {
        step: 4,
        why: text("nothing ran here before"),
    }
}

pub(super) fn going_back() -> GoingBack {
    GoingBack {
        hosts: vec![text("h1"), text("h2")],
        to: Some(target(454)),
        fetch: vec![text("h2")],
        takes_ms: Some(7),
    }
}

pub(super) fn environment_difference() -> EnvironmentDifference {
    EnvironmentDifference {
        key: text("policy.soak"),
        was: Some(text("1m")),
        is: Some(text("2m")),
    }
}

pub(super) fn environment_version() -> EnvironmentVersion {
    EnvironmentVersion {
        version: 2,
        who: text("operator/alice"),
        at_ms: 1_760_000_000_005,
        message: text("m"),
        text: text("version = 1"),
    }
}

pub(super) fn notify_route() -> NotifyRoute {
    NotifyRoute {
        name: text("pager"),
        told: 5,
        failed: 2,
        trouble_since_ms: 1_700_000_000_000,
        seq: 12,
        trouble: text("it answered with status 500"),
    }
}

pub(super) fn lost() -> LostRelease {
    LostRelease {
        app: text("web"),
        release: 455,
        files: 2,
        path: text("lib/app.js"),
    }
}

pub(super) fn wanted() -> Wanted {
    Wanted {
        number: 4,
        blobs: vec![digest(21)],
        manifests: vec![digest(22)],
    }
}
