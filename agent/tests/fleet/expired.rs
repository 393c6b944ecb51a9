//! The store's list of expired assets.

use ship_proto::v1;
use ship_proto::v1::assets_server::Assets;
use tonic::{Request, Response as Answer, Status};

use super::store::{Inner, Replies};

#[tonic::async_trait]
impl Assets for Inner {
    type LookStream = Replies<v1::AssetLine>;
    type SweepStream = Replies<v1::SweepProgress>;
    type ExpiredStream = Replies<v1::ExpiredPart>;
    type PushStream = Replies<v1::PushProgress>;

    async fn push(&self, _: Request<v1::PushAssetsRequest>) -> Result<Answer<Self::PushStream>, Status> {
        Err(Status::unimplemented("agents do not push"))
    }

    async fn expired(
        &self,
        request: Request<v1::ExpiredRequest>,
    ) -> Result<Answer<Self::ExpiredStream>, Status> {
        self.well()?;
        assert_eq!(request.into_inner().app, "web");
        let list = self.expired.lock().unwrap().clone().unwrap_or_default();
        let parts: Vec<_> = list.parts(2).map(|paths| Ok(v1::ExpiredPart { paths })).collect();
        Ok(Answer::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn find(&self, _: Request<v1::FindAssetRequest>) -> Result<Answer<v1::FindAssetReply>, Status> {
        Err(Status::unimplemented("nobody misses anything here"))
    }

    async fn look(&self, _: Request<v1::LookAssetsRequest>) -> Result<Answer<Self::LookStream>, Status> {
        Err(Status::unimplemented("agents do not look"))
    }

    async fn sweep(&self, _: Request<v1::SweepAssetsRequest>) -> Result<Answer<Self::SweepStream>, Status> {
        Err(Status::unimplemented("agents do not sweep"))
    }
}
