//! An asset port alone, for measuring: `front FOLDER [--threads N]` makes a union of all files below FOLDER/public in
//! FOLDER/assets, keeps codings in FOLDER/encoded, serves all at /, prints where, and goes on until it is killed.
#![allow(clippy::print_stdout, reason = "whoever started it reads the address there")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ship_assets::serve::{Assets, Encodings, Limits, Port, Setup, serve_on};
use ship_assets::{Shelf, Union};
use ship_model::digest::BlobDigest;
use ship_model::manifest::{Entry, EntryKind, Manifest};
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::spec::{AssetRoot, ReleaseSpec};

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(300);

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().ok_or("front FOLDER [--threads N]")?);
    let threads = match (words.next().as_deref(), words.next()) {
        (None, _) => 2,
        (Some("--threads"), Some(threads)) => threads.parse()?,
        _ => return Err("front FOLDER [--threads N]".into()),
    };
    let shelf = shelf(&folder)?;
    let setup = Setup {
        encodings: Some(Arc::new(Encodings::open(&folder.join("encoded"))?)),
        ..Setup::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let assets = Assets::with(shelf, setup);
        let limits = Limits {
            connections: CONNECTIONS,
            // Kept ones stay until they are counted.
            head: PATIENCE,
            idle: PATIENCE,
            ..Limits::default()
        };
        let port = Port { tls: None, limits };
        serve_on(port, listener, assets, std::future::pending()).await;
        Ok(())
    })
}

fn shelf(folder: &Path) -> Result<Arc<Shelf>, Failed> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder.join("public"))? {
        let entry = entry?;
        let bytes = fs::read(entry.path())?;
        let name = entry.file_name();
        let path = [b"public/", name.as_encoded_bytes()].concat();
        entries.push(Entry {
            path: TreePath::new(&path)?,
            kind: EntryKind::File {
                executable: false,
                size: bytes.len() as u64,
                digest: BlobDigest::of(&bytes),
            },
        });
    }
    let app = AppName::new("bench")?;
    let mut spec = ReleaseSpec::static_files(app.clone());
    spec.assets
        .push(AssetRoot::new(TreePath::new(b"public").ok(), "/"));
    let manifest = Manifest::new(spec, entries)?;
    let target = Target {
        number: ReleaseNumber(1),
        id: Manifest::id_of(manifest.encoded()),
    };
    let union = Arc::new(Union::open(
        &folder.join("assets"),
        &folder.join("assets.records"),
    )?);
    union.add_tree(target, &manifest, folder)?;
    let shelf = Arc::new(Shelf::new());
    shelf.set_union(&app, &union);
    shelf.set_running(&app, folder, &manifest)?;
    Ok(shelf)
}
