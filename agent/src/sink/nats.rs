//! Alerts to NATS JetStream: each waits for the stream's acknowledgement, and carries its id as message id, so that the stream drops what comes
//! again (within its duplicate window).
//!
//! A stream is made only where the configuration says so: its limits are the fleet's business.

use std::{path::PathBuf, time::Duration};

use async_nats::{
    ConnectOptions,
    jetstream::{
        self,
        context::{Context, PublishError, PublishErrorKind},
        message::PublishMessage,
        stream,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    Format, chain,
    deliver::{Failure, Message, Progress, Target},
    files::secret,
    filter::Filter,
    tls::Tls,
};
use crate::log::Record;

/// Alerts on their way at once; each waits for its acknowledgement.
const IN_FLIGHT: usize = 128;

/// A part of a subject that stands for a text is at most this long.
const TOKEN_BYTES: usize = 96;

/// Alerts to NATS JetStream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the sink: its place in the alert log and its metrics are kept under it.
    pub name: String,
    /// Servers, `nats://HOST:PORT` or `tls://HOST:PORT`; one after another is tried.
    pub servers: Vec<String>,
    /// Subject of each message: `{priority}`, `{rule}` and `{node}` stand for the alert's, with `_` for what no subject may have.
    #[serde(default = "subject")]
    pub subject: String,
    /// `json`: Falco's shape; `ocsf`: an OCSF Detection Finding; `text`: the alert's text.
    #[serde(default)]
    pub format: Format,
    /// Which alerts.
    #[serde(default)]
    pub filter: Filter,
    /// Name of a stream to make where it is missing, for the subjects of this sink. None: a stream that takes them is there already.
    #[serde(default)]
    pub create_stream: Option<String>,
    /// Most bytes of a stream that is made.
    #[serde(default = "stream_bytes_max")]
    #[schemars(range(min = 1_048_576))]
    pub stream_bytes_max: u64,
    /// File of a token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// User, with the password in `password_file`.
    #[serde(default)]
    pub user: Option<String>,
    /// File of the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// File of credentials (a JWT and its seed), as `nsc` writes it.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// For `tls://`, and for servers that ask for TLS.
    #[serde(default)]
    pub tls: Tls,
    /// How long connecting or an acknowledgement may take, in seconds (1 to 600).
    #[serde(default = "super::syslog::timeout_s")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_s: u64,
    /// Longest pause between tries, in seconds (1 to 3600).
    #[serde(default = "super::deliver::pause_max_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub pause_max_s: u64,
}

fn subject() -> String {
    "saker.alerts.{priority}.{node}".into()
}

fn stream_bytes_max() -> u64 {
    1 << 30
}

impl Settings {
    /// What cannot be meant; the key and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.filter.check()?;
        self.tls.check()?;
        if self.servers.is_empty() {
            return Err((
                "servers",
                "none: at least one nats:// or tls:// address".into(),
            ));
        }
        for server in &self.servers {
            let is_known = server.starts_with("nats://") || server.starts_with("tls://");
            if !is_known || server.parse::<async_nats::ServerAddr>().is_err() {
                let problem = format!("{server:?} is no nats://HOST:PORT or tls://HOST:PORT");
                return Err(("servers", problem));
            }
            if server.contains('@') {
                let problem = "credentials do not belong into an address: token_file, password_file or credentials_file";
                return Err(("servers", problem.into()));
            }
        }
        let subject = self.subject_of("a", "b", "c");
        let is_whole = !subject.split('.').any(str::is_empty);
        if !is_whole || subject.contains(['*', '>', ' ', '\t', '{', '}']) {
            let problem = format!(
                "{:?} is no subject; known are {{priority}}, {{rule}} and {{node}}",
                self.subject
            );
            return Err(("subject", problem));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err(("user", "user and password_file belong together".into()));
        }
        let ways = [
            self.token_file.is_some(),
            self.user.is_some(),
            self.credentials_file.is_some(),
        ];
        if ways.iter().filter(|way| **way).count() > 1 {
            let problem = "one of token_file, user and credentials_file";
            return Err(("token_file", problem.into()));
        }
        if let Some(name) = &self.create_stream
            && (name.is_empty()
                || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_'))
        {
            return Err(("create_stream", format!("{name:?} is no stream's name")));
        }
        Ok(())
    }

    fn subject_of(&self, priority: &str, rule: &str, node: &str) -> String {
        let mut subject = self.subject.clone();
        for (name, value) in [("{priority}", priority), ("{rule}", rule), ("{node}", node)] {
            if subject.contains(name) {
                subject = subject.replace(name, &token(value));
            }
        }
        subject
    }

    /// What a stream listens to so that it gets every subject of this sink.
    fn wildcard(&self) -> String {
        let wild = |part: &str| {
            if part.contains('{') {
                "*".to_owned()
            } else {
                part.to_owned()
            }
        };
        self.subject
            .split('.')
            .map(wild)
            .collect::<Vec<_>>()
            .join(".")
    }
}

/// A text as one part of a subject.
fn token(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    let token: String = text.chars().map(plain).take(TOKEN_BYTES).collect();
    if token.is_empty() { "_".into() } else { token }
}

/// The stream.
#[derive(Debug)]
pub struct JetStream {
    settings: Settings,
    node: String,
    context: Option<Context>,
}

impl JetStream {
    /// Nothing is connected yet; `node` is this node's name.
    pub fn new(settings: Settings, node: &str) -> Self {
        Self {
            settings,
            node: node.into(),
            context: None,
        }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.settings.timeout_s)
    }

    async fn connect(&self) -> Result<Context, String> {
        let settings = &self.settings;
        // It reconnects by itself, but with the certificates and secrets of before: a connection that fails is made anew here.
        let mut options = ConnectOptions::new()
            .name("saker")
            .connection_timeout(self.limit())
            .max_reconnects(1)
            .ignore_discovered_servers();
        if settings
            .servers
            .iter()
            .any(|server| server.starts_with("tls://"))
        {
            options = options.require_tls(true);
        }
        if settings.tls != Tls::default()
            || settings
                .servers
                .iter()
                .any(|server| server.starts_with("tls://"))
        {
            options = options.tls_client_config(settings.tls.client().await?);
        }
        if let Some(path) = &settings.token_file {
            options = options.token(secret(path).await?);
        }
        if let (Some(user), Some(path)) = (&settings.user, &settings.password_file) {
            options = options.user_and_password(user.clone(), secret(path).await?);
        }
        if let Some(path) = &settings.credentials_file {
            options = options
                .credentials(&secret(path).await?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let servers = settings.servers.join(", ");
        let client = options.connect(settings.servers.clone()).await;
        let client = client.map_err(|error| format!("{servers}: {}", chain(&error)))?;
        let mut context = jetstream::new(client);
        context.set_timeout(self.limit());
        if let Some(name) = &settings.create_stream {
            let wanted = stream::Config {
                name: name.clone(),
                subjects: vec![settings.wildcard()],
                max_bytes: i64::try_from(settings.stream_bytes_max).unwrap_or(i64::MAX),
                ..stream::Config::default()
            };
            let made = context.get_or_create_stream(wanted).await;
            made.map_err(|error| format!("stream {name}: {}", chain(&error)))?;
        }
        Ok(context)
    }

    fn subject(&self, record: &Record) -> String {
        let priority = record.priority.name().to_ascii_lowercase();
        self.settings
            .subject_of(&priority, &record.rule, &self.node)
    }

    async fn send(&mut self, messages: &[Message]) -> Progress {
        let context = match &self.context {
            Some(context) => context.clone(),
            None => match self.connect().await {
                Ok(context) => self.context.insert(context).clone(),
                Err(why) => return Progress::until(0, Failure::retry(why)),
            },
        };
        let mut done = 0;
        for some in messages.chunks(IN_FLIGHT) {
            let mut on_their_way = Vec::with_capacity(some.len());
            let mut failure = None;
            for message in some {
                let publish = PublishMessage::build()
                    .payload(message.text.clone().into())
                    .message_id(&message.record.id);
                match context
                    .send_publish(self.subject(&message.record), publish)
                    .await
                {
                    Ok(acknowledged) => on_their_way.push(acknowledged),
                    Err(error) => {
                        failure = Some(self.failure(&error));
                        break;
                    }
                }
            }
            for acknowledged in on_their_way {
                match acknowledged.await {
                    Ok(_) => done += 1,
                    // What was sent behind it comes again, and the stream knows it by its id.
                    Err(error) => return Progress::until(done, self.failure(&error)),
                }
            }
            if let Some(failure) = failure {
                return Progress::until(done, failure);
            }
        }
        Progress::all(done)
    }

    fn failure(&self, error: &PublishError) -> Failure {
        let why = match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => return Failure::Refused(chain(error)),
            PublishErrorKind::StreamNotFound => format!(
                "no stream takes {}: make one, or set create_stream",
                self.settings.wildcard()
            ),
            _ => chain(error),
        };
        Failure::retry(format!("{}: {why}", self.settings.servers.join(", ")))
    }
}

impl Target for JetStream {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        // Each step has its own limit; together they end too.
        let limit = self.limit() * 4;
        let progress = match timeout(limit, self.send(messages)).await {
            Ok(progress) => progress,
            Err(_) => Progress::until(
                0,
                Failure::retry(format!(
                    "{}: nothing moves for {limit:?}",
                    self.settings.servers.join(", ")
                )),
            ),
        };
        if matches!(progress.failure, Some(Failure::Retry { .. })) {
            self.context = None;
        }
        progress
    }

    fn at_once(&self) -> usize {
        IN_FLIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> Settings {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    #[test]
    fn subjects_are_made_of_what_subjects_may_have() {
        let mut settings =
            settings("{name: n, servers: ['nats://h:1'], subject: 'a.{rule}.{node}.{priority}'}");
        settings.check().expect("it is right");
        let subject = settings.subject_of("warning", "GPU > 90 % *.x", "node.one");
        assert_eq!(subject, "a.GPU___90_____x.node_one.warning");
        assert_eq!(settings.wildcard(), "a.*.*.*");
        for wrong in ["a..b", "a.{what}", "a.*", "a.>", "", ".a", "a b"] {
            settings.subject = wrong.into();
            assert!(settings.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn settings_are_checked() {
        crate::sink::assert_refused(
            Settings::check,
            &[
                ("{name: n, servers: []}", "at least one"),
                ("{name: n, servers: ['http://x']}", "http://x"),
                ("{name: n, servers: ['nats://a:b@x:1']}", "credentials"),
                (
                    "{name: n, servers: ['nats://x'], user: a}",
                    "belong together",
                ),
                (
                    "{name: n, servers: ['nats://x'], token_file: /a, credentials_file: /b}",
                    "one of",
                ),
                (
                    "{name: n, servers: ['nats://x'], create_stream: 'a.b'}",
                    "stream",
                ),
            ],
        );
    }
}
