//! Asks the store what stands at a path, and what has expired.

use ship_assets::miss::{Promised, Standing};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::retention::{Expired, ExpiredList};
use ship_proto::v1::assets_client::AssetsClient;
use ship_proto::{MAX_MESSAGE, WireError, digest, require, v1};

use super::{FetchError, Fetcher, answer, answer_of, call};

impl Fetcher {
    /// The asset that one of `apps` published at `url`; none when none did. Asked once: somebody waits.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn find_asset(&self, apps: &[AppName], url: &str) -> Result<Standing, FetchError> {
        let what = || format!("word of asset {url}");
        let request = v1::FindAssetRequest {
            apps: apps.iter().map(ToString::to_string).collect(),
            path: url.to_owned(),
        };
        let mut client = AssetsClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        let reply = answer(&what, client.find(call(request))).await?;
        let found = match (reply.asset, reply.expired) {
            (Some(found), _) => read(found, url).map(Standing::Promised),
            (None, true) => Ok(Standing::Expired),
            (None, false) => Ok(Standing::Never),
        };
        found.map_err(|source| FetchError::Wire {
            what: "an asset",
            source,
        })
    }
}

impl Fetcher {
    /// The list of expired assets that `told` names. Asked once: it is tried again later, maybe for a newer one.
    ///
    /// # Errors
    /// [`FetchError`]; also when the store has another list by now.
    pub async fn expired_list(&self, told: &Expired) -> Result<ExpiredList, FetchError> {
        let mut list = ExpiredList::default();
        if told.paths > 0 {
            let what = || format!("the list of expired assets of {}", told.app);
            let request = v1::ExpiredRequest {
                app: told.app.to_string(),
            };
            let mut client = AssetsClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
            let mut parts = answer(&what, client.expired(call(request))).await?;
            while let Some(part) = answer_of(&what, parts.message()).await? {
                list.take(&part.paths).map_err(|source| FetchError::Expired {
                    app: told.app.clone(),
                    source,
                })?;
            }
        }
        match list.digest(&told.app) == told.list {
            true => Ok(list),
            false => Err(FetchError::OtherExpired {
                app: told.app.clone(),
            }),
        }
    }
}

fn read(found: v1::FoundAsset, url: &str) -> Result<Promised, WireError> {
    Ok(Promised {
        app: found.app.parse()?,
        release: Target::try_from(require(found.release, "release")?)?,
        url: url.to_owned(),
        digest: digest(&found.digest, "digest", BlobDigest::from_slice)?,
        size: found.bytes,
    })
}
