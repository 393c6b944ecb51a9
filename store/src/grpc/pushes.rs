//! Bringing assets to where they are pushed because somebody says so: for a bucket that is new, or that lost something.

use std::sync::Arc;
use std::time::Duration;

use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_proto::v1::{self, FailureKind};
use tokio::sync::mpsc;
use tonic::Status;

use super::face::Face;
use super::releases::Rooms;
use super::status;
use crate::push::{PushHandle, Tally};

/// Between two words of a release on its way.
const LOOK: Duration = Duration::from_millis(300);

/// One call.
pub(super) struct Bringing {
    pub rooms: Arc<Rooms>,
    pub app: AppName,
    pub pushes: Vec<PushHandle>,
    /// Newest first.
    pub releases: Vec<ReleaseNumber>,
    pub progress: mpsc::Sender<Result<v1::PushProgress, Status>>,
}

/// What is to go where.
pub(super) async fn wanted(
    face: &Face,
    rooms: &Rooms,
    request: &v1::PushAssetsRequest,
) -> Result<(AppName, Vec<PushHandle>, Vec<ReleaseNumber>), Status> {
    let app = face.known_app(&request.app).await?;
    let env = request.env.parse().map_err(|error| status::bad_name(&error))?;
    let mut pushes = rooms.pushes.of(&env, &app);
    if pushes.is_empty() {
        return Err(ship_proto::refuse(
            FailureKind::NotFound,
            format!("no push takes assets of {app} in {env}"),
            &format!("{env}/{app}"),
            "declare one as [[push]] in the store's store.toml, and start the store again; another environment: -e ENV",
        ));
    }
    if !request.push.is_empty() {
        let known: Vec<String> = pushes.iter().map(|push| push.name().to_string()).collect();
        pushes.retain(|push| push.name().as_str() == request.push);
        if pushes.is_empty() {
            return Err(status::not_found("push", &request.push, known));
        }
    }
    let of = app.clone();
    let all = face.ledger(move |ledger| {
        let collected = ledger.all_collected(&of)?;
        let mut all = ledger.releases(&of, usize::MAX)?;
        // Nothing of those is promised.
        all.retain(|release| !collected.get(&release.number).is_some_and(|mark| mark.bare));
        Ok(all)
    });
    let all = all.await?;
    let mut releases: Vec<ReleaseNumber> = all.iter().map(|release| release.number).collect();
    releases.sort_unstable();
    releases.reverse();
    if request.number > 0 {
        let known: Vec<String> = releases.iter().map(ToString::to_string).collect();
        releases.retain(|number| number.0 == request.number);
        if releases.is_empty() {
            return Err(status::not_found("release", &request.number.to_string(), known));
        }
    }
    Ok((app, pushes, releases))
}

impl Bringing {
    /// One place after another; one that refuses does not keep the others from theirs.
    pub async fn run(self) {
        for push in &self.pushes {
            for number in &self.releases {
                if !self.bring(push, *number).await {
                    break;
                }
            }
            if self.progress.is_closed() {
                return;
            }
        }
    }

    /// False when nothing more should go there.
    async fn bring(&self, push: &PushHandle, number: ReleaseNumber) -> bool {
        let tally = Arc::new(Tally::default());
        let mut job = {
            let (push, pushing) = (push.clone(), self.rooms.pushing.clone());
            let (app, tally) = (self.app.clone(), Arc::clone(&tally));
            tokio::spawn(async move { push.bring(&pushing, app, number, tally).await })
        };
        loop {
            tokio::select! {
                result = &mut job => {
                    let result = result.unwrap_or_else(|_| Err("the work was broken off inside the store".to_owned()));
                    let going = result.is_ok();
                    return self.tell(push, number, &tally, Some(result)).await && going;
                }
                () = tokio::time::sleep(LOOK) => {
                    if !self.tell(push, number, &tally, None).await {
                        return false;
                    }
                }
            }
        }
    }

    /// False when nobody listens any longer.
    async fn tell(
        &self,
        push: &PushHandle,
        number: ReleaseNumber,
        tally: &Tally,
        ended: Option<Result<(), String>>,
    ) -> bool {
        let (sent, sent_bytes, there) = tally.read();
        let done = ended.as_ref().is_some_and(Result::is_ok);
        let said = v1::PushProgress {
            push: push.name().to_string(),
            release: number.0,
            releases: self.releases.len() as u64,
            sent,
            sent_bytes,
            there,
            done,
            error: ended.and_then(Result::err).unwrap_or_default(),
        };
        self.progress.send(Ok(said)).await.is_ok()
    }
}
