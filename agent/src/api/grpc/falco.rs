//! Falco's services, which Falco removed in 0.44: its clients get Saker's alerts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use saker_rules::loader::ENGINE_VERSION;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    alerts::{QUEUE, send_or_cut},
    convert,
    listen::Line,
    tail::{Page, Tail},
};
use crate::{
    api::node::Node,
    log::Cursor,
    proto::falco::{
        outputs::{self, service_server},
        version,
    },
};

/// Alerts that are read at once.
const PAGE: usize = 64;

/// `falco.outputs.service`.
#[derive(Debug)]
pub struct Outputs {
    node: Arc<Node>,
    stuck: Duration,
    /// Up to where `get` has told.
    told: AtomicU64,
}

impl Outputs {
    /// Of this node.
    pub fn new(node: Arc<Node>, stuck: Duration) -> Self {
        Self {
            node,
            stuck,
            told: AtomicU64::new(0),
        }
    }

    fn stream(&self, line: Option<Line>, from: Cursor, until: Option<Cursor>) -> Alerts {
        let (out, messages) = mpsc::channel(QUEUE);
        let tail = Tail::new(&self.node.log);
        tokio::spawn(send(tail, from, until, out, line, self.stuck));
        ReceiverStream::new(messages)
    }
}

type Alerts = ReceiverStream<Result<outputs::Response, Status>>;

#[tonic::async_trait]
impl service_server::Service for Outputs {
    type subStream = Alerts;

    async fn sub(
        &self,
        request: Request<Streaming<outputs::Request>>,
    ) -> Result<Response<Alerts>, Status> {
        let line = request.extensions().get::<Line>().cloned();
        let newest = self.node.log.newest();
        let mut requests = request.into_inner();
        // Requests say nothing; they are taken so that a client is not kept waiting for room to send them.
        tokio::spawn(async move { while let Some(Ok(_)) = requests.next().await {} });
        Ok(Response::new(self.stream(line, newest, None)))
    }

    type getStream = Alerts;

    async fn get(&self, request: Request<outputs::Request>) -> Result<Response<Alerts>, Status> {
        let line = request.extensions().get::<Line>().cloned();
        let newest = self.node.log.newest();
        let from = self.told.fetch_max(newest, Ordering::AcqRel);
        Ok(Response::new(self.stream(line, from, Some(newest))))
    }
}

async fn send(
    mut tail: Tail,
    mut at: Cursor,
    until: Option<Cursor>,
    out: mpsc::Sender<Result<outputs::Response, Status>>,
    line: Option<Line>,
    stuck: Duration,
) {
    while until.is_none_or(|until| at < until) {
        let Page { rows, end, .. } = match tail.after(at, PAGE).await {
            Ok(found) => found,
            Err(status) => {
                let _ = out.send_timeout(Err(status), stuck).await;
                return;
            }
        };
        if rows.is_empty() && end > at {
            at = end;
            continue;
        }
        if rows.is_empty() {
            if until.is_some() {
                return;
            }
            tokio::select! {
                more = tail.wait(at) => if !more { return },
                () = out.closed() => return,
            }
        }
        for row in rows {
            at = row.cursor;
            if until.is_some_and(|until| at > until) {
                return;
            }
            let message = Ok(convert::falco(&row));
            if !send_or_cut(&out, message, line.as_ref(), stuck).await {
                return;
            }
        }
    }
}

/// `falco.version.service`.
#[derive(Debug)]
pub struct Version;

#[tonic::async_trait]
impl version::service_server::Service for Version {
    async fn version(
        &self,
        _: Request<version::Request>,
    ) -> Result<Response<version::Response>, Status> {
        let number = |text: &str| text.parse().unwrap_or(0);
        Ok(Response::new(version::Response {
            version: env!("CARGO_PKG_VERSION").into(),
            major: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            patch: number(env!("CARGO_PKG_VERSION_PATCH")),
            prerelease: env!("CARGO_PKG_VERSION_PRE").into(),
            build: "saker".into(),
            engine_version: ENGINE_VERSION.1,
            engine_fields_checksum: String::new(),
        }))
    }
}
