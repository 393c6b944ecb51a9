//! The store's faces, over one connection that heals itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ship_proto::v1::assets_client::AssetsClient;
use ship_proto::v1::environments_client::EnvironmentsClient;
use ship_proto::v1::fleet_client::FleetClient;
use ship_proto::v1::releases_client::ReleasesClient;
use ship_proto::v1::rollouts_client::RolloutsClient;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::context::Context;
use crate::dial::{DialError, Speech, dial};
use crate::error::{CommandError, Exit};

/// A connection that says nothing for this long is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// And has this long to answer.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

pub type Spoken = InterceptedService<Channel, Version>;

/// Says with each call which protocol is spoken.
#[derive(Debug, Clone, Copy)]
pub struct Version;

impl Interceptor for Version {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let version = MetadataValue::from_static(ship_proto::PROTOCOL);
        request.metadata_mut().insert("ship-protocol", version);
        Ok(request)
    }
}

/// A store that answered once. When the line drops, the next call dials anew, with the certificates that
/// lie on disk then.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Dials, so that whoever cannot reach the store learns why and what to type.
    pub async fn connect(context: &Context) -> Result<Self, CommandError> {
        let first = dial(context, Speech::Http2).await?;
        let endpoint = Endpoint::from_static("http://store.ship.internal")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .keep_alive_while_idle(true);
        let context = Arc::new(context.clone());
        let first = Arc::new(Mutex::new(Some(first)));
        let connector = tower::service_fn(move |_: Uri| {
            let waiting = first.lock().ok().and_then(|mut first| first.take());
            let context = Arc::clone(&context);
            async move { next_connection(waiting, &context).await.map(TokioIo::new) }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| CommandError::of(Exit::Error, &error).hint("see: shipctl doctor"))?;
        Ok(Self { channel })
    }

    pub fn releases(&self) -> ReleasesClient<Spoken> {
        ReleasesClient::with_interceptor(self.channel.clone(), Version)
            .max_decoding_message_size(ship_proto::MAX_MESSAGE)
    }

    pub fn rollouts(&self) -> RolloutsClient<Spoken> {
        RolloutsClient::with_interceptor(self.channel.clone(), Version)
            .max_decoding_message_size(ship_proto::MAX_MESSAGE)
    }

    pub fn assets(&self) -> AssetsClient<Spoken> {
        AssetsClient::with_interceptor(self.channel.clone(), Version)
            .max_decoding_message_size(ship_proto::MAX_MESSAGE)
    }

    pub fn environments(&self) -> EnvironmentsClient<Spoken> {
        EnvironmentsClient::with_interceptor(self.channel.clone(), Version)
            .max_decoding_message_size(ship_proto::MAX_MESSAGE)
    }

    pub fn fleet(&self) -> FleetClient<Spoken> {
        FleetClient::with_interceptor(self.channel.clone(), Version)
            .max_decoding_message_size(ship_proto::MAX_MESSAGE)
    }
}

async fn next_connection(
    waiting: Option<TlsStream<TcpStream>>,
    context: &Context,
) -> Result<TlsStream<TcpStream>, DialError> {
    match waiting {
        Some(stream) => Ok(stream),
        None => dial(context, Speech::Http2).await,
    }
}
