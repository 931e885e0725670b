//! A bound on calls that are being answered. A call holds its place until the last byte of its answer was handed over or its client
//! went away: what answers cost a client that does not read is bounded too.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body, codegen::http};
use tower::{Layer, Service};

use crate::metrics::{Metrics, Outcome};

/// Makes services count.
#[derive(Clone, Debug)]
pub struct Calls {
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Calls {
    /// At most `max` at a time.
    pub fn new(max: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max)),
            metrics,
        }
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            calls: self.clone(),
        }
    }
}

/// A service that refuses calls beyond the bound.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let place = Arc::clone(&self.calls.places).try_acquire_owned();
        let outcome = if place.is_ok() { "accepted" } else { "refused" };
        self.calls
            .metrics
            .api
            .grpc_calls
            .get_or_create(&Outcome { outcome })
            .inc();
        let Ok(place) = place else {
            let status = Status::new(
                Code::ResourceExhausted,
                "too many calls are being answered (grpc.limits.calls_max)",
            );
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| held(body, place))) })
    }
}

/// The body, which holds a place as long as it is there.
fn held(body: Body, place: OwnedSemaphorePermit) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &place;
        frame
    }))
}
