//! Asks the store what stands at a path.

use ship_assets::miss::{Promised, Standing};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::Target;
use ship_proto::v1::assets_client::AssetsClient;
use ship_proto::{MAX_MESSAGE, WireError, digest, require, v1};

use super::{FetchError, Fetcher, answer, call};

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

fn read(found: v1::FoundAsset, url: &str) -> Result<Promised, WireError> {
    Ok(Promised {
        app: found.app.parse()?,
        release: Target::try_from(require(found.release, "release")?)?,
        url: url.to_owned(),
        digest: digest(&found.digest, "digest", BlobDigest::from_slice)?,
        size: found.bytes,
    })
}
