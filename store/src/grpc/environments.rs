//! What environments are told by their files: what a file would change, and the versions that stand or stood.

use ship_model::environment::{Environment, MAX_TEXT, difference, read_environment};
use ship_model::name::EnvName;
use ship_proto::v1::environments_server::Environments;
use ship_proto::v1::{self, FailureKind};
use tonic::{Request, Response, Status};

use super::face::{Face, caller};
use super::rollouts::MESSAGE;
use super::status;
use crate::ledger::{Act, EnvironmentFile};

#[derive(Debug, Clone)]
pub struct EnvironmentsFace(pub Face);

impl EnvironmentsFace {
    async fn standing(&self, env: &EnvName) -> Result<Option<EnvironmentFile>, Status> {
        let env = env.clone();
        self.0.ledger(move |ledger| ledger.environment_file(&env)).await
    }

    /// True when `file` stands now; false when another was first.
    async fn put(&self, file: EnvironmentFile, changes: usize) -> Result<bool, Status> {
        let act = Act {
            at_ms: file.at_ms,
            who: file.who.clone(),
            what: "env apply".to_owned(),
            subject: file.env.to_string(),
            detail: match file.message.is_empty() {
                true => format!("version {}: {changes} changes", file.version),
                false => format!("version {}: {}", file.version, file.message),
            },
        };
        self.0
            .ledger(move |ledger| ledger.put_environment_file(&file, &act))
            .await
    }
}

/// The file of a request, checked.
fn asked(request: &v1::ApplyRequest, env: &EnvName) -> Result<Environment, Status> {
    if request.message.len() > MESSAGE {
        let long = format!("the message is longer than {MESSAGE} bytes");
        return Err(status::invalid(long, "message"));
    }
    if request.text.len() > MAX_TEXT {
        let long = format!("the file is longer than {} KiB", MAX_TEXT >> 10);
        return Err(status::invalid(long, "text"));
    }
    let read =
        read_environment(&request.text).map_err(|errors| status::invalid(errors.to_string(), "text"))?;
    if read.env != *env {
        let other = format!("the file is of {}, not of {env}", read.env);
        return Err(status::invalid(other, "env"));
    }
    Ok(read)
}

fn overtaken(env: &EnvName, standing: Option<&EnvironmentFile>) -> Status {
    let message = match standing {
        Some(file) => format!(
            "version {} of {env} by {} stands meanwhile; nothing was changed",
            file.version, file.who
        ),
        None => format!("nothing stands for {env} any more; nothing was changed"),
    };
    let hint = "apply it again: it shows the difference to what stands now";
    ship_proto::refuse(FailureKind::Busy, message, env.as_str(), hint)
}

fn told(file: EnvironmentFile, with_text: bool) -> v1::EnvironmentVersion {
    v1::EnvironmentVersion {
        version: file.version,
        who: file.who,
        at_ms: file.at_ms,
        message: file.message,
        text: if with_text { file.text } else { String::new() },
    }
}

#[tonic::async_trait]
impl Environments for EnvironmentsFace {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let new = asked(&request, &env)?;
        let standing = self.standing(&env).await?;
        // One that this program cannot read any more is replaced as a whole.
        let old = standing
            .as_ref()
            .and_then(|file| read_environment(&file.text).ok());
        let differences = difference(old.as_ref(), &new);
        let mut version = standing.as_ref().map_or(0, |file| file.version);
        // The same asked twice, after a lost answer for one, finds it done.
        if request.apply && (standing.is_none() || !differences.is_empty()) {
            if request.parent != version {
                return Err(overtaken(&env, standing.as_ref()));
            }
            version += 1;
            let file = EnvironmentFile {
                env: env.clone(),
                version,
                text: request.text,
                who,
                at_ms: self.0.clock.now_ms(),
                message: request.message,
            };
            if !self.put(file, differences.len()).await? {
                return Err(overtaken(&env, self.standing(&env).await?.as_ref()));
            }
        }
        let differences = differences.into_iter().map(|found| v1::EnvironmentDifference {
            key: found.key,
            was: found.was,
            is: found.is,
        });
        Ok(Response::new(v1::ApplyReply {
            version,
            differences: differences.collect(),
        }))
    }

    async fn show(
        &self,
        request: Request<v1::ShowEnvironmentRequest>,
    ) -> Result<Response<v1::ShowEnvironmentReply>, Status> {
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let (of, wanted) = (env.clone(), request.version);
        let (shown, versions) = self
            .0
            .ledger(move |ledger| {
                let shown = match wanted {
                    0 => ledger.environment_file(&of)?,
                    version => ledger.environment_version(&of, version)?,
                };
                Ok((shown, ledger.environment_versions(&of)?))
            })
            .await?;
        if wanted > 0 && shown.is_none() {
            let known = versions.iter().map(|file| file.version.to_string());
            return Err(status::not_found("version", &wanted.to_string(), known));
        }
        Ok(Response::new(v1::ShowEnvironmentReply {
            environment: shown.map(|file| told(file, true)),
            versions: versions.into_iter().map(|file| told(file, false)).collect(),
        }))
    }
}
