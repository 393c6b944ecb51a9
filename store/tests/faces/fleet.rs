//! A store under test, and clients of it.

mod line;
mod tree;

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::stream;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::spec::ReleaseSpec;
use ship_proto::v1::agents_client::AgentsClient;
use ship_proto::v1::assets_client::AssetsClient;
use ship_proto::v1::environments_client::EnvironmentsClient;
use ship_proto::v1::fleet_client::FleetClient;
use ship_proto::v1::releases_client::ReleasesClient;
use ship_proto::v1::rollouts_client::RolloutsClient;
use ship_proto::v1::{self, OutcomeKind};
use ship_store::serve::Addresses;
use ship_store::settings::Settings;
use tempfile::TempDir;
use tonic::transport::Channel;

pub use line::{channel, connect, http, tls};
pub use tree::Tree;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, done: impl FnMut() -> F) -> T {
    until_within(PATIENCE, what, done).await
}

/// The same, for at most `patience`.
pub async fn until_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut done: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = done().await {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// On a part of the loopback net of this process's own, where nobody else is given a port that was let go.
pub fn own_ip() -> Ipv4Addr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | a, b, c.max(1))
}

pub struct Store {
    pub dir: TempDir,
    child: Option<Child>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_shipstore"))
}

fn ran(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Store {
    /// A new store that serves, impatient enough for tests. Its hosts live in the test's own thread; where a loaded machine makes
    /// that wait, it must not be taken for their silence.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut store = Self { dir, child: None };
        ran(program()
            .args(["init", "--fleet", "acme", "--dir"])
            .arg(store.folder()));
        let mut settings = Settings::read(&store.folder()).unwrap();
        settings.listen.set_port(0);
        settings.assets_listen.set_port(0);
        settings.heartbeat_ms = 200;
        settings.uncertain_after_ms = 15_000;
        settings.unavailable_after_ms = 30_000;
        settings.soak_ms = 100;
        settings.switch_deadline_ms = 20_000;
        change(&mut settings);
        settings.write(&store.folder()).unwrap();
        store.serve().await;
        store
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Starts the store again, and waits until it serves.
    pub async fn serve(&mut self) {
        self.serve_with(&[]).await;
    }

    /// As [`Store::serve`], with variables set, as for a fault point.
    pub async fn serve_with(&mut self, variables: &[(&str, &str)]) {
        assert!(self.child.is_none());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = program();
        command.envs(variables.iter().copied());
        command.arg("serve").arg("--dir").arg(self.folder());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.child = Some(child);
        until("the store to serve", || async {
            self.read_addresses().filter(|addresses| addresses.pid == pid)
        })
        .await;
    }

    fn read_addresses(&self) -> Option<Addresses> {
        serde_json::from_slice(&fs::read(self.folder().join("run/addresses.json")).ok()?).ok()
    }

    pub fn addresses(&self) -> Addresses {
        self.read_addresses().unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        signal(child.id(), rustix::process::Signal::TERM);
        child.wait().unwrap()
    }

    /// The folder of a certificate for `name` with `role`, `agent/dev` for an agent of dev.
    pub fn certificate(&self, role: &str, name: &str) -> PathBuf {
        let out = self.dir.path().join(format!("{}-{name}", role.replace('/', "-")));
        if out.exists() {
            return out;
        }
        let mut command = program();
        command
            .arg("issue")
            .arg("--dir")
            .arg(self.folder())
            .arg("--out")
            .arg(&out);
        command.args(["--name", name]);
        match role.split_once('/') {
            Some((role, env)) => command.args(["--role", role, "--env", env]),
            None => command.args(["--role", role]),
        };
        ran(&mut command);
        out
    }

    pub async fn channel(&self, role: &str, name: &str) -> Channel {
        channel(self.addresses().grpc, &self.certificate(role, name))
            .await
            .unwrap()
    }

    pub async fn operator(&self) -> Clients {
        Clients::new(self.channel("operator", "alice").await)
    }
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// All services over one connection.
#[derive(Clone)]
pub struct Clients {
    pub releases: ReleasesClient<Channel>,
    pub rollouts: RolloutsClient<Channel>,
    pub environments: EnvironmentsClient<Channel>,
    pub fleet: FleetClient<Channel>,
    pub assets: AssetsClient<Channel>,
    pub agents: AgentsClient<Channel>,
}

impl Clients {
    pub fn new(channel: Channel) -> Self {
        Self {
            releases: ReleasesClient::new(channel.clone()),
            rollouts: RolloutsClient::new(channel.clone()),
            environments: EnvironmentsClient::new(channel.clone()),
            fleet: FleetClient::new(channel.clone()),
            assets: AssetsClient::new(channel.clone()),
            agents: AgentsClient::new(channel),
        }
    }

    /// Publishes a tree of `files`, those below `static/` as assets.
    pub async fn publish(
        &mut self,
        app: &str,
        files: &[(&str, &[u8])],
    ) -> Result<v1::ReleaseRecord, tonic::Status> {
        self.publish_with(app, files, |_| {}).await
    }

    pub async fn publish_with(
        &mut self,
        app: &str,
        files: &[(&str, &[u8])],
        change: impl FnOnce(&mut ReleaseSpec),
    ) -> Result<v1::ReleaseRecord, tonic::Status> {
        let tree = Tree::with(app, files, change);
        let missing = self.begin(app, &tree).await?;
        self.finish(app, &tree, &missing).await
    }

    /// Publishes `tree` with a bundle of all it has, as when another publish of the same content has not ended yet.
    pub async fn publish_all(&mut self, app: &str, tree: &Tree) -> Result<v1::ReleaseRecord, tonic::Status> {
        self.begin(app, tree).await?;
        self.finish(app, tree, &tree.blobs()).await
    }

    /// What the store lacks of `tree`.
    async fn begin(&mut self, app: &str, tree: &Tree) -> Result<HashSet<BlobDigest>, tonic::Status> {
        let chunk = v1::BeginChunk {
            app: app.to_owned(),
            manifest: tree.manifest.encoded().to_vec().into(),
            check_only: false,
        };
        let mut missing = self.releases.begin(stream::iter([chunk])).await?.into_inner();
        let mut wanted = HashSet::new();
        while let Some(part) = missing.message().await? {
            let blobs = part.blobs.iter();
            wanted.extend(blobs.map(|blob| BlobDigest::from_slice(blob).unwrap()));
        }
        Ok(wanted)
    }

    async fn finish(
        &mut self,
        app: &str,
        tree: &Tree,
        wanted: &HashSet<BlobDigest>,
    ) -> Result<v1::ReleaseRecord, tonic::Status> {
        let bundle = match wanted.is_empty() {
            true => None,
            false => Some(self.upload(&tree.pack(wanted)).await?),
        };
        let commit = v1::CommitRequest {
            app: app.to_owned(),
            id: Manifest::id_of(tree.manifest.encoded()).as_bytes().to_vec(),
            bundle,
            request_id: request_id(),
            ..v1::CommitRequest::default()
        };
        Ok(self.releases.commit(commit).await?.into_inner())
    }

    pub async fn upload(&mut self, bundle: &[u8]) -> Result<Vec<u8>, tonic::Status> {
        let chunks: Vec<_> = bundle
            .chunks(64 << 10)
            .map(|data| v1::UploadChunk {
                bundle: None,
                data: data.to_vec().into(),
            })
            .collect();
        Ok(self
            .releases
            .upload(stream::iter(chunks))
            .await?
            .into_inner()
            .bundle)
    }

    /// Publishes release `text` of the static app web, which is one page and one fingerprinted asset.
    pub async fn publish_page(&mut self, text: &str) -> v1::ReleaseRecord {
        let name = format!("static/app.{}.js", &blake3::hash(text.as_bytes()).to_hex()[..16]);
        self.publish(
            "web",
            &[("index.html", text.as_bytes()), (&name, text.as_bytes())],
        )
        .await
        .unwrap()
    }

    pub async fn status(&mut self) -> v1::StatusReply {
        self.fleet
            .status(v1::StatusRequest::default())
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until hosts of these states are known.
    pub async fn hosts(&mut self, wanted: &[(&str, &str)]) {
        until(&format!("hosts {wanted:?}"), || {
            let mut clients = self.clone();
            async move {
                let status = clients.status().await;
                let found: Vec<_> = status
                    .hosts
                    .iter()
                    .map(|host| (&*host.host, &*host.state))
                    .collect();
                (found == wanted).then_some(())
            }
        })
        .await;
    }

    /// Follows a rollout to its end.
    pub async fn end(&mut self, started: &v1::Started) -> v1::RolloutView {
        let request = v1::WatchRequest {
            app: started.app.clone(),
            env: started.env.clone(),
            deploy: started.deploy,
        };
        let mut views = self.rollouts.watch(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(view) = tokio::time::timeout(PATIENCE, views.message())
            .await
            .unwrap()
            .unwrap()
        {
            last = Some(view);
        }
        last.unwrap()
    }

    pub async fn promote(&mut self, number: u64) -> v1::RolloutView {
        let started = self.rollouts.promote(plan(number)).await.unwrap().into_inner();
        self.end(&started).await
    }

    pub async fn revert(&mut self, number: u64) -> v1::RolloutView {
        let started = self.rollouts.revert(plan(number)).await.unwrap().into_inner();
        self.end(&started).await
    }
}

/// A request about release `number` of web in dev.
pub fn plan(number: u64) -> v1::PlanRequest {
    v1::PlanRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        number,
        request_id: request_id(),
        ..v1::PlanRequest::default()
    }
}

pub fn request_id() -> Vec<u8> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).unwrap();
    id.to_vec()
}

pub fn outcome(view: &v1::RolloutView) -> OutcomeKind {
    view.outcome()
}
