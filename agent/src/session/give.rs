//! The store lost content: what releases on this host have of it is given back, in one call at a time.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use ship_bundle::stage::{Place, StagedRelease};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_proto::v1::agents_client::AgentsClient;
use ship_proto::v1::give_chunk::What;
use ship_proto::{MAX_MESSAGE, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::chain;
use crate::dial::Dial;
use crate::fetch::{channel_to, name_protocol};
use crate::layout::HostLayout;

/// Digests of one question; what is more is left out.
const MOST: usize = 1024;
/// Bytes of one message.
const PIECE: usize = 256 << 10;
/// Messages that wait for the store.
const AHEAD: usize = 4;

/// Gives one answer at a time.
#[derive(Debug)]
pub(super) struct Gives {
    layout: HostLayout,
    dial: Arc<Dial>,
    busy: Arc<Semaphore>,
}

/// What is asked for and not given yet.
struct Left {
    number: u64,
    blobs: BTreeSet<BlobDigest>,
    manifests: BTreeSet<ReleaseId>,
}

impl Gives {
    pub fn new(layout: HostLayout, dial: Arc<Dial>) -> Self {
        Self {
            layout,
            dial,
            busy: Arc::new(Semaphore::new(1)),
        }
    }

    /// Begins to give. A question that comes while another is answered is left open: the store asks again.
    pub fn hear(&self, wanted: &v1::Wanted) {
        let Ok(place) = Arc::clone(&self.busy).try_acquire_owned() else {
            return;
        };
        let blobs = wanted.blobs.iter().take(MOST);
        let manifests = wanted.manifests.iter().take(MOST);
        let left = Left {
            number: wanted.number,
            blobs: blobs.filter_map(|blob| BlobDigest::from_slice(blob)).collect(),
            manifests: manifests.filter_map(|id| ReleaseId::from_slice(id)).collect(),
        };
        let (layout, dial) = (self.layout.clone(), Arc::clone(&self.dial));
        tokio::spawn(async move {
            let _place = place;
            give(layout, &dial, left).await;
        });
    }
}

async fn give(layout: HostLayout, dial: &Arc<Dial>, left: Left) {
    let (out, chunks) = mpsc::channel(AHEAD);
    let number = left.number;
    // It ends when the call does: nobody takes its messages then.
    let reading = tokio::task::spawn_blocking(move || read(&layout, left, &out));
    let mut client = AgentsClient::new(channel_to(dial)).max_decoding_message_size(MAX_MESSAGE);
    let mut request = Request::new(ReceiverStream::new(chunks));
    name_protocol(&mut request);
    match client.give(request).await {
        Ok(reply) => {
            let taken = reply.into_inner().taken;
            tracing::info!(number, taken, "the store took back what it had lost");
        }
        Err(status) => tracing::info!(number, error = chain(&status), "the store takes nothing back"),
    }
    reading.await.ok();
}

/// Looks through all releases that are complete on this host.
fn read(layout: &HostLayout, mut left: Left, out: &mpsc::Sender<v1::GiveChunk>) {
    // The store waits no longer for a host that has nothing.
    let answers = v1::GiveChunk {
        number: left.number,
        ..v1::GiveChunk::default()
    };
    if out.blocking_send(answers).is_err() {
        return;
    }
    for app in crate::converge::known_apps(layout) {
        let releases = layout.app(&app).releases();
        for folder in crate::scrub::folders(&releases) {
            let Ok(place) = Place::new(&releases, &folder) else {
                continue;
            };
            // One that is removed meanwhile gives nothing.
            let Ok(staged) = StagedRelease::open(place) else {
                continue;
            };
            if from_release(&staged, &mut left, out).is_err() {
                return;
            }
        }
    }
}

fn from_release(
    staged: &StagedRelease,
    left: &mut Left,
    out: &mpsc::Sender<v1::GiveChunk>,
) -> io::Result<()> {
    let number = left.number;
    let id = staged.id();
    if left.manifests.remove(&id) {
        let named = What::Manifest(id.as_bytes().to_vec());
        send(staged.manifest().encoded(), number, named, out)?;
    }
    staged.give(&mut left.blobs, &mut |blob, file| {
        send(file, number, What::Blob(blob.as_bytes().to_vec()), out)
    })
}

fn send(mut from: impl Read, number: u64, named: What, out: &mpsc::Sender<v1::GiveChunk>) -> io::Result<()> {
    let mut named = Some(named);
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let got = from.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if got == 0 && named.is_none() {
            return Ok(());
        }
        let chunk = v1::GiveChunk {
            number,
            what: named.take(),
            data: Bytes::from(piece),
        };
        out.blocking_send(chunk)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}
