//! Every message of the wire, each field set: agents, stores and terminals of different versions speak to each other.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use prost::Message;
use ship_proto::v1::*;

use super::{frozen, writes_the_same};
use values::*;

const FILE: &str = "wire-1.txt";

fn to_store(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn to_agent(message: store_message::Message) -> StoreMessage {
    StoreMessage {
        message: Some(message),
    }
}

/// A message by name: its bytes, and whether given bytes are read as it.
type Example = (&'static str, Vec<u8>, Box<dyn Fn(&[u8]) -> bool>);

macro_rules! examples {
    ($($name:literal $kind:ident = $value:expr;)*) => {
        vec![$({
            let value: $kind = $value;
            let bytes = value.encode_to_vec();
            let same: Box<dyn Fn(&[u8]) -> bool> = Box::new(move |bytes| $kind::decode(bytes).as_ref() == Ok(&value));
            ($name, bytes, same)
        }),*]
    };
}

fn examples() -> Vec<Example> {
    examples! {
        "Target" Target = target(455);
        "ReleaseRecord" ReleaseRecord = record();
        "DamagedRelease" DamagedRelease = DamagedRelease {
            release: Some(target(454)),
            reason: text("\"app.js\" has other bytes than the release says"),
        };
        "ProcessReport" ProcessReport = ProcessReport {
            name: text("web"), release: 455, pid: 7, state: text("up"), said: text("warm"),
        };
        "AppWait" AppWait = AppWait { on: text("the app's own lock"), until_ms: 1_760_000_030_000, overrules: true };
        "Canary" Canary = Canary { release: Some(target(454)), percent: 10, until_ms: 1_760_000_030_000 };
        "DesiredApp" DesiredApp = desired_app();
        "DesiredHost" DesiredHost = DesiredHost { apps: vec![desired_app()], expired: vec![], drained: false };
        "UpdateFigures" UpdateFigures = figures();
        "AppFailure" AppFailure = failure();
        "LocalHold" LocalHold = hold();
        "AppReport" AppReport = app_report();
        "HostReport" HostReport = host_report();
        "LogLine" LogLine = log_line();
        "Failure" Failure = Failure { kind: FailureKind::Fenced.into(), subject: text("web@455"), hint: text("shipctl plan"), since_ms: 0 };
        "BeginChunk" BeginChunk = BeginChunk {
            app: text("web"), manifest: b"manifest".as_slice().into(), check_only: false,
        };
        "BeginChunk check" BeginChunk = BeginChunk { app: text("web"), check_only: true, ..BeginChunk::default() };
        "MissingBlobs" MissingBlobs = MissingBlobs { blobs: vec![digest(1), digest(2)] };
        "UploadChunk" UploadChunk = UploadChunk { bundle: Some(digest(3)), data: b"data".as_slice().into() };
        "UploadDeltaChunk" UploadDeltaChunk = UploadDeltaChunk {
            offer: Some(delta_offer()), data: b"data".as_slice().into(),
        };
        "DeltaOffer" DeltaOffer = delta_offer();
        "Uploaded" Uploaded = Uploaded { bundle: digest(4), stored_bytes: 17 };
        "CommitRequest" CommitRequest = CommitRequest {
            app: text("web"), id: digest(5), bundle: Some(digest(6)), label: Some(text("l")), commit: Some(text("c")),
            dirty: true, request_id: vec![7; 16],
        };
        "ListReleasesRequest" ListReleasesRequest = ListReleasesRequest { app: text("web"), limit: 20 };
        "ListReleasesReply" ListReleasesReply = ListReleasesReply { releases: vec![release_line()] };
        "ReleaseLine" ReleaseLine = release_line();
        "GetReleaseRequest" GetReleaseRequest = GetReleaseRequest { app: text("web"), number: 455 };
        "ReleaseRecord collected" ReleaseRecord = ReleaseRecord {
            collected_at_ms: 1_760_000_000_007, pinned: text("operator/alice: audit"), ..record()
        };
        "PinRequest" PinRequest = PinRequest { app: text("web"), number: 455, because: text("audit"), unpin: true };
        "CollectRequest" CollectRequest = CollectRequest { dry_run: true, wait_ms: Some(0) };
        "CollectLine" CollectLine = CollectLine {
            kind: text("release"), name: text("web@455"), bytes: 5, fate: text("kept"), since_ms: 6,
            reasons: vec![CollectReason { kind: text("young"), words: text("w"), until_ms: 7 }],
        };
        "CollectReason" CollectReason = CollectReason { kind: text("young"), words: text("w"), until_ms: 7 };
        "ManifestRequest" ManifestRequest = ManifestRequest { id: digest(8) };
        "Piece" Piece = Piece { data: b"piece".as_slice().into() };
        "LocateRequest" LocateRequest = LocateRequest { blobs: vec![digest(9)], avoid: Vec::new() };
        "MissingRequest" MissingRequest = MissingRequest { blobs: vec![digest(9)], release: vec![] };
        "Located" Located = Located { bundle: digest(10), bundle_bytes: 18, blobs: vec![digest(11)] };
        "PlanRequest" PlanRequest = PlanRequest {
            app: text("web"), number: 455, env: text("production"), message: text("m"), force: true,
            request_id: vec![12; 16], revert: true,
            // Came later.
            without: vec![],
            ..PlanRequest::default()
        };
        "PlanReply" PlanReply = PlanReply { view: Some(rollout_view()), changes: true, ..PlanReply::default() };
        "HostWay" HostWay = HostWay {
            host: text("h1"), process: text("web"), strategy: text("stop-start"), gap: text("coexist = false"), gap_ms: Some(1),
            covered_by: text("queue"), standby: true, hold_ms: Some(2),
            // Came later.
            tight: String::new(),
        };
        "Started" Started = Started { app: text("web"), env: text("production"), deploy: 7 };
        "WatchRequest" WatchRequest = WatchRequest { app: text("web"), env: text("production"), deploy: 7 };
        "ControlRequest" ControlRequest = ControlRequest {
            app: text("web"), env: text("production"), verb: control_request::Verb::Abort.into(), message: text("m"),
        };
        "RolloutView" RolloutView = rollout_view();
        "StepView" StepView = step_view();
        "HostLine" HostLine = host_line();
        "StatusRequest" StatusRequest = StatusRequest { env: text("production"), app: text("web") };
        "StatusReply" StatusReply = StatusReply {
            apps: vec![app_status()], hosts: vec![host_status()], now_ms: 19, store_version: text("0.1.0"),
            asset_url: text("http://127.0.0.1:7480"), lost: vec![], notify: vec![],
        };
        "AppStatus" AppStatus = app_status();
        "AppHost" AppHost = app_host();
        "HostStatus" HostStatus = host_status();
        "LogsRequest" LogsRequest = LogsRequest {
            env: text("production"), app: text("web"), host: text("h1"), lines: 100, follow: true, release: 455,
        };
        "EventsRequest" EventsRequest = EventsRequest { limit: 50, follow: true };
        "Event" Event = Event {
            seq: 1, at_ms: 20, who: text("operator/alice"), what: text("promote"), subject: text("production/web"),
            detail: text("web@455"), hash: digest(13),
        };
        "AgentMessage hello" AgentMessage = to_store(agent_message::Message::Hello(hello()));
        "AgentMessage report" AgentMessage = to_store(agent_message::Message::Report(host_report()));
        "AgentMessage logs" AgentMessage = to_store(agent_message::Message::Logs(logs_reply()));
        "Hello" Hello = hello();
        "LogsReply" LogsReply = logs_reply();
        "StoreMessage welcome" StoreMessage = to_agent(store_message::Message::Welcome(welcome()));
        "StoreMessage desired" StoreMessage = to_agent(store_message::Message::Desired(DesiredHost { apps: vec![desired_app()], expired: vec![], drained: false }));
        "StoreMessage logs" StoreMessage = to_agent(store_message::Message::Logs(logs_query()));
        "Welcome" Welcome = welcome();
        "LogsQuery" LogsQuery = logs_query();
        "LocalStatusRequest" LocalStatusRequest = LocalStatusRequest {};
        "LocalStatus" LocalStatus = LocalStatus {
            env: text("production"), host: text("h1"), report: Some(host_report()), store_connected: true,
            store: text("https://127.0.0.1:7400"), store_error: text("refused"),
        };
        "LocalRevertRequest" LocalRevertRequest = LocalRevertRequest {
            app: text("web"), number: 454, reason: text("blank"), force: true,
        };
        "LocalVerifyRequest" LocalVerifyRequest = LocalVerifyRequest { app: text("web"), full: true };
        "LocalVerifyReply" LocalVerifyReply = LocalVerifyReply { releases: vec![verified()] };
        "VerifiedRelease" VerifiedRelease = verified();
        "LocalLogsRequest" LocalLogsRequest = LocalLogsRequest { app: text("web"), lines: 100, follow: true, release: 455 };
        "AgentMessage asked" AgentMessage = to_store(agent_message::Message::Asked(asked()));
        "AssetsAsked" AssetsAsked = asked();
        "StoreMessage taken" StoreMessage = to_agent(store_message::Message::Taken(AskedTaken { number: 3 }));
        "AskedTaken" AskedTaken = AskedTaken { number: 3 };
        "Welcome hears asked" Welcome = Welcome { hears_asked: true, ..welcome() };
        "AssetIncident" AssetIncident = incident();
        "AppReport incidents" AppReport = AppReport { incidents: vec![incident()], ..app_report() };
        "LookAssetsRequest" LookAssetsRequest = LookAssetsRequest { app: text("web"), path: text("/a.js"), collectable: true };
        "AssetLine" AssetLine = AssetLine {
            url: text("/a.js"), digest: digest(14), bytes: 21, releases: vec![454, 455], reasons: vec![asset_reason()],
            collectable_since_ms: 22, asked_ms: 23, asked_of: text("production/h1"), stands_on: vec![text("store")],
            // Came later.
            expired_ms: 0,
        };
        "AssetReason" AssetReason = asset_reason();
        "FindAssetRequest" FindAssetRequest = FindAssetRequest { apps: vec![text("web")], path: text("/a.js") };
        "FindAssetReply" FindAssetReply = FindAssetReply { asset: Some(found_asset()), expired: false };
        "FoundAsset" FoundAsset = found_asset();
        "AssetLine expired" AssetLine = AssetLine { url: text("/a.js"), expired_ms: 25, ..AssetLine::default() };
        "FindAssetReply expired" FindAssetReply = FindAssetReply { asset: None, expired: true };
        "SweepAssetsRequest" SweepAssetsRequest = SweepAssetsRequest { app: text("web") };
        "SweepProgress marked" SweepProgress = SweepProgress {
            progress: Some(sweep_progress::Progress::Marked(sweep_marked())),
        };
        "SweepProgress swept" SweepProgress = SweepProgress {
            progress: Some(sweep_progress::Progress::Swept(swept())),
        };
        "SweepMarked" SweepMarked = sweep_marked();
        "Swept" Swept = swept();
        "ReleaseAsked" ReleaseAsked = ReleaseAsked { release: 455, found: 24, unknown: 25 };
        "AssetRot" AssetRot = rot();
        "AppReport figures" AppReport = AppReport {
            asked: vec![ReleaseAsked { release: 455, found: 24, unknown: 25 }], rot: Some(rot()), older_connections: 5,
            generations: 2, switched_ms: 1_760_000_000_003, ..app_report()
        };
        "HostFigures" HostFigures = host_figures();
        "DeltasRequest" DeltasRequest = DeltasRequest {
            release: digest(18), bases: vec![digest(19)], avoid: vec![digest(20)],
        };
        "DeltasReply" DeltasReply = DeltasReply { deltas: vec![delta()] };
        "Delta" Delta = delta();
        "HostReport figures" HostReport = HostReport { figures: Some(host_figures()), ..host_report() };
        "AppMemory" AppMemory = memory();
        "AppReport memory" AppReport = AppReport { memory: Some(memory()), ..app_report() };
        "HostWay tight" HostWay = HostWay { tight: text("1 MiB available on the host, 2 MiB wanted"), ..HostWay::default() };
        "MissingPrivilege" MissingPrivilege = missing();
        "Privileges" Privileges = Privileges { missing: vec![missing()] };
        "HostReport privileges" HostReport = HostReport {
            privileges: Some(Privileges { missing: vec![missing()] }), ..host_report()
        };
        "Expired" Expired = expired();
        "DesiredHost drained" DesiredHost = DesiredHost { drained: true, ..DesiredHost::default() };
        "Standing" Standing = standing();
        "HostStatus drained" HostStatus = HostStatus { standing: Some(standing()), ..host_status() };
        "HostRequest" HostRequest = HostRequest {
            env: text("production"), host: text("h1"), verb: host_request::Verb::Retire.into(),
            message: text("old machine"), force: true,
        };
        "HostReply" HostReply = HostReply { host: Some(host_status()), notes: vec![text("it does not report")] };
        "DesiredHost expired" DesiredHost = DesiredHost { apps: vec![desired_app()], expired: vec![expired()], drained: false };
        "AppReport expired" AppReport = AppReport { expired: digest(15), ..app_report() };
        "ExpiredRequest" ExpiredRequest = ExpiredRequest { app: text("web") };
        "ExpiredPart" ExpiredPart = ExpiredPart { paths: vec![16; 32] };
        "PushAssetsRequest" PushAssetsRequest = PushAssetsRequest {
            app: text("web"), env: text("production"), push: text("cdn"), number: 455,
        };
        "PushProgress" PushProgress = PushProgress {
            push: text("cdn"), release: 455, releases: 3, sent: 1, sent_bytes: 2, there: 4, done: true, error: text("refused"),
        };
        "SweepFollowed" SweepFollowed = followed();
        "SweepProgress followed" SweepProgress = SweepProgress {
            progress: Some(sweep_progress::Progress::Followed(followed())),
        };
        "LeavesRequest bundle" LeavesRequest = LeavesRequest { object: Some(leaves_request::Object::Bundle(digest(17))) };
        "LeavesRequest delta" LeavesRequest = LeavesRequest { object: Some(leaves_request::Object::Delta(digest(18))) };
        "LeavesReply" LeavesReply = LeavesReply { leaves: b"leaves".as_slice().into() };
        "PeerAddress" PeerAddress = peer();
        "Sources" Sources = sources();
        "StoreMessage sources" StoreMessage = to_agent(store_message::Message::Sources(sources()));
        "SourceFault" SourceFault = fault();
        "HostReport sources" HostReport = HostReport {
            peer_address: Some(text("10.0.0.7:7410")), faults: vec![fault()], ..host_report()
        };
        "HostFigures sources" HostFigures = HostFigures {
            fetched_from_mirrors: 9, fetched_from_peers: 10, served_to_peers: 11, ..host_figures()
        };
        "UpdateFigures sources" UpdateFigures = UpdateFigures {
            fetched_from_mirrors: 6, fetched_from_peers: 7, ..figures()
        };
        "PlanRequest saved" PlanRequest = PlanRequest {
            without: vec![text("h3")], plan: b"plan".to_vec(), profile: text("careful"), ..PlanRequest::default()
        };
        "PlanReply expected" PlanReply = PlanReply {
            plan: b"plan".to_vec(), no_return: vec![no_return()], then: Some(target(454)), ..PlanReply::default()
        };
        "NoReturn" NoReturn = no_return();
        "StepView expected" StepView = StepView { takes_ms: Some(6), back: Some(going_back()), ..step_view() };
        "GoingBack" GoingBack = going_back();
        "ApplyRequest" ApplyRequest = ApplyRequest {
            env: text("production"), text: text("version = 1"), apply: true, parent: 2, message: text("m"),
        };
        "ApplyReply" ApplyReply = ApplyReply { version: 3, differences: vec![environment_difference()] };
        "EnvironmentDifference" EnvironmentDifference = environment_difference();
        "ShowEnvironmentRequest" ShowEnvironmentRequest = ShowEnvironmentRequest { env: text("production"), version: 2 };
        "ShowEnvironmentReply" ShowEnvironmentReply = ShowEnvironmentReply {
            environment: Some(environment_version()), versions: vec![environment_version()],
        };
        "EnvironmentVersion" EnvironmentVersion = environment_version();
        "LostRelease" LostRelease = lost();
        "StatusReply lost" StatusReply = StatusReply { lost: vec![lost()], ..StatusReply::default() };
        "NotifyRoute" NotifyRoute = notify_route();
        "StatusReply notify" StatusReply = StatusReply { notify: vec![notify_route()], ..StatusReply::default() };
        "Wanted" Wanted = wanted();
        "StoreMessage wanted" StoreMessage = to_agent(store_message::Message::Wanted(wanted()));
        "GiveChunk blob" GiveChunk = GiveChunk {
            number: 4, what: Some(give_chunk::What::Blob(digest(21))), data: b"piece".as_slice().into(),
        };
        "GiveChunk manifest" GiveChunk = GiveChunk {
            number: 4, what: Some(give_chunk::What::Manifest(digest(22))), data: b"piece".as_slice().into(),
        };
        "MissingRequest release" MissingRequest = MissingRequest { blobs: vec![digest(9)], release: digest(10) };
        "GiveReply" GiveReply = GiveReply { taken: 5 };
        "AnswerRequest" AnswerRequest = AnswerRequest {
            app: text("web"), env: text("production"), word: answer_request::Word::Acknowledge.into(), gate: text("dns"),
            deploy: 7, step: 5, note: text("weight is at 50"),
        };
        "GateLine" GateLine = gate_line();
        "StepView gates" StepView = StepView { gates: vec![gate_line()], ..step_view() };
        "RolloutView gates" RolloutView = RolloutView { skipped_gates: vec![text("smoke")], ..rollout_view() };
    }
}

/// `name<TAB>hex` by line.
fn frozen_messages() -> BTreeMap<String, Vec<u8>> {
    let text = String::from_utf8(frozen(FILE)).unwrap();
    let line = |line: &str| {
        let (name, bytes) = line.split_once('\t').unwrap();
        (name.to_owned(), hex::decode(bytes).unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn messages_are_written_as_they_were() {
    let mut text = String::new();
    for (name, bytes, _) in examples() {
        writeln!(text, "{name}\t{}", hex::encode(bytes)).unwrap();
    }
    writes_the_same(FILE, text.as_bytes());
}

#[test]
fn messages_are_read_as_they_were_meant_also_with_fields_of_tomorrow() {
    let frozen = frozen_messages();
    for (name, _, reads) in examples() {
        let mut bytes = frozen[name].clone();
        assert!(reads(&bytes), "{name} is read as something else");
        // Field 1000, a number: what a newer program would add.
        bytes.extend([0xc0, 0x3e, 1]);
        assert!(reads(&bytes), "{name} stumbles over an unknown field");
    }
}

#[test]
fn no_message_is_left_out() {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/ship/v1");
    let mut declared = BTreeSet::new();
    for file in std::fs::read_dir(proto).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("message "));
        declared.extend(
            names
                .filter_map(|rest| rest.split_whitespace().next())
                .map(str::to_owned),
        );
    }
    let examples = examples();
    let first = |name: &'static str| name.split(' ').next().unwrap().to_owned();
    let covered: BTreeSet<_> = examples.iter().map(|(name, ..)| first(name)).collect();
    assert_eq!(covered, declared);
}
