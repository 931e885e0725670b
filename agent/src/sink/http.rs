//! Alerts by HTTP POST in the shape of Falco's `http_output`: one alert a request, so that falcosidekick and all behind it take them, or
//! batches as a JSON array.
//!
//! Redirects are not followed and proxies not asked: alerts go where the configuration says, or nowhere.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, time::Duration};

use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use super::{
    Format, chain,
    deliver::{Failure, Message, Progress, Target},
    files::secret,
    filter::Filter,
    tls::Tls,
};

/// Most of an answer's body is nobody's business: beyond this the connection is given up.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Longest head of an answer, and what is looked through at once of heads that are none yet: a server that says `100 Continue` for ever
/// holds up nobody.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A batch ends with the alert that reaches this, so that no receiver's usual limit is met.
const BODY_BYTES: usize = 512 << 10;

/// What says how long a request is and where it goes is not for a configuration to say.
const OWN_HEADERS: [&str; 6] = [
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "te",
    "transfer-encoding",
];

/// Alerts to a web server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the sink: its place in the alert log and its metrics are kept under it.
    pub name: String,
    /// Where to, `http://` or `https://`.
    pub url: String,
    /// `json`: Falco's shape; `ocsf`: OCSF Detection Findings; `text`: the alerts' text.
    #[serde(default)]
    pub format: Format,
    /// Which alerts.
    #[serde(default)]
    pub filter: Filter,
    /// Alerts in one request (1 to 256). 1: the alert is the body, as Falco sends it; above: a JSON array of them, or with `text` a line each.
    #[serde(default = "batch_max")]
    #[schemars(range(min = 1, max = 256))]
    pub batch_max: usize,
    /// Whether bodies are compressed.
    #[serde(default)]
    pub gzip: bool,
    /// Further headers, in the place of ours of the same name; those of length, host and encoding are the sink's own. What is secret does
    /// not belong here, but in `token_file` or `header_files`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values are read from files, anew for each request.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// File of a bearer token, read anew for each request.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// For `https://`.
    #[serde(default)]
    pub tls: Tls,
    /// How long a request may take from its beginning to its answer, in seconds (1 to 600).
    #[serde(default = "super::syslog::timeout_s")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_s: u64,
    /// Longest pause between tries, in seconds (1 to 3600).
    #[serde(default = "super::deliver::pause_max_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub pause_max_s: u64,
}

fn batch_max() -> usize {
    1
}

impl Settings {
    /// What cannot be meant; the key and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.filter.check()?;
        self.tls.check()?;
        if let Err(problem) = place(&self.url) {
            return Err(("url", problem));
        }
        if self.tls != Tls::default() && !self.url.starts_with("https://") {
            return Err(("tls", "only for https://".into()));
        }
        if !(1..=256).contains(&self.batch_max) {
            let problem = format!("{} is not from 1 to 256", self.batch_max);
            return Err(("batch_max", problem));
        }
        for name in self.headers.keys().chain(self.header_files.keys()) {
            if HeaderName::try_from(name.as_str()).is_err() {
                return Err(("headers", format!("{name:?} is no header's name")));
            }
        }
        let is_own = |name: &&String| OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str());
        let mut names = self.headers.keys().chain(self.header_files.keys());
        if let Some(name) = names.find(is_own) {
            return Err(("headers", format!("{name:?} is set by the sink itself")));
        }
        let is_secret = |name: &&String| name.eq_ignore_ascii_case("authorization");
        if let Some(name) = self.headers.keys().find(is_secret) {
            let problem = format!("the value of {name:?} is a secret: token_file or header_files");
            return Err(("headers", problem));
        }
        if self.token_file.is_some() && self.header_files.keys().any(|name| is_secret(&name)) {
            let problem = "token_file and header_files both set Authorization";
            return Err(("token_file", problem.into()));
        }
        for (name, value) in &self.headers {
            if HeaderValue::try_from(value.as_str()).is_err() {
                return Err(("headers", format!("the value of {name:?} is no header's")));
            }
        }
        Ok(())
    }
}

/// Where a URL leads.
#[derive(Debug)]
struct Place {
    host: String,
    port: u16,
    is_tls: bool,
    /// What the Host header says.
    authority: String,
    path: String,
}

fn place(url: &str) -> Result<Place, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(format!("{url:?} begins with neither http:// nor https://")),
    };
    let authority = uri
        .authority()
        .ok_or_else(|| format!("{url:?} names no host"))?;
    if authority.as_str().contains('@') {
        return Err("credentials do not belong into a URL: token_file or header_files".into());
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    Ok(Place {
        host: host.into(),
        port: authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 }),
        is_tls,
        authority: authority.to_string(),
        path: uri.path_and_query().map_or("/".into(), ToString::to_string),
    })
}

/// The web server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    connection: Option<Connection>,
    /// Fewer after a batch was refused, until the alert at fault is found.
    batch: usize,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Nothing is connected yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            batch: settings.batch_max,
            settings,
            connection: None,
        }
    }

    async fn connect(&self, place: &Place) -> Result<Connection, String> {
        let Place { host, port, .. } = place;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.map_err(|error| format!("{host}:{port}: {error}"))?;
        let _ = stream.set_nodelay(true);
        let failed = |error: hyper::Error| format!("{host}:{port}: {}", chain(&error));
        if place.is_tls {
            let stream = self.settings.tls.connect(host, stream).await;
            let stream = stream.map_err(|why| format!("{host}:{port}: {why}"))?;
            let (sender, connection) = connection()
                .handshake(TokioIo::new(stream))
                .await
                .map_err(failed)?;
            let task = tokio::spawn(connection).abort_handle();
            return Ok(Connection { sender, task });
        }
        let (sender, connection) = connection()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Connection { sender, task })
    }

    async fn request(
        &self,
        place: &Place,
        messages: &[Message],
    ) -> Result<Request<Full<Bytes>>, String> {
        let settings = &self.settings;
        let is_text = settings.format == Format::Text;
        let kind = if is_text {
            "text/plain; charset=utf-8"
        } else {
            "application/json"
        };
        let mut request = Request::post(&place.path)
            .header(header::HOST, &place.authority)
            .header(
                header::USER_AGENT,
                concat!("saker/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONTENT_TYPE, kind);
        // In the place of ours, where there is one.
        let mut others = HeaderMap::new();
        for (name, value) in &settings.headers {
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            others.insert(header_name(name)?, value);
        }
        for (name, path) in &settings.header_files {
            others.insert(header_name(name)?, sensitive(&secret(path).await?)?);
        }
        if let Some(path) = &settings.token_file {
            let value = sensitive(&format!("Bearer {}", secret(path).await?))?;
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut body = self.body(messages);
        if settings.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
            body = packed.map_err(|error| error.to_string())?;
        }
        let body = Full::new(Bytes::from(body));
        let mut request = request.body(body).map_err(|error| error.to_string())?;
        request.headers_mut().extend(others);
        Ok(request)
    }

    fn body(&self, messages: &[Message]) -> Vec<u8> {
        let texts: Vec<_> = messages
            .iter()
            .map(|message| message.text.as_str())
            .collect();
        let text = match (self.settings.batch_max, self.settings.format) {
            (1, _) => texts.concat(),
            (_, Format::Text) => texts.join("\n"),
            (_, Format::Json | Format::Falco | Format::Ocsf) => format!("[{}]", texts.join(",")),
        };
        text.into_bytes()
    }

    /// One request; how it was answered.
    async fn post(
        &mut self,
        messages: &[Message],
    ) -> Result<(StatusCode, Option<Duration>, String), String> {
        let place = place(&self.settings.url)?;
        let request = self.request(&place, messages).await?;
        let mut connection = match self
            .connection
            .take()
            .filter(|open| !open.sender.is_closed())
        {
            Some(open) => open,
            None => self.connect(&place).await?,
        };
        let failed = |error: hyper::Error| format!("{}: {}", place.authority, chain(&error));
        connection.sender.ready().await.map_err(failed)?;
        let answer = connection
            .sender
            .send_request(request)
            .await
            .map_err(failed)?;
        let (status, after) = (answer.status(), retry_after(&answer));
        // A body that is not read to its end would stand before the next answer.
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let said = match body {
            Ok(body) => {
                self.connection = Some(connection);
                String::from_utf8_lossy(&body.to_bytes()).into_owned()
            }
            Err(_) => String::new(),
        };
        Ok((status, after, beginning(&said)))
    }

    async fn send(&mut self, messages: &[Message]) -> Progress {
        let mut done = 0;
        while done < messages.len() {
            let rest = &messages[done..];
            let count = self.count(rest);
            let limit = Duration::from_secs(self.settings.timeout_s);
            let answer = match timeout(limit, self.post(&rest[..count])).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.connection = None;
                    Err(format!("{}: no answer within {limit:?}", self.shown()))
                }
            };
            let (status, after, said) = match answer {
                Ok(answer) => answer,
                Err(why) => {
                    return Progress::until(done, Failure::retry(why));
                }
            };
            if status.is_success() {
                done += count;
                // Twice as many again, up to what is configured.
                self.batch = (self.batch * 2).min(self.settings.batch_max);
                continue;
            }
            let why = format!("{} answers {status}{said}", self.shown());
            if !is_refusal(status) {
                return Progress::until(done, Failure::Retry { why, after });
            }
            if count == 1 {
                return Progress::until(done, Failure::Refused(why));
            }
            // One of them is at fault; halves find it.
            self.batch = count / 2;
        }
        Progress::all(done)
    }

    /// The address as log lines have it: what stands behind `?` is often a key.
    fn shown(&self) -> &str {
        let url = self.settings.url.as_str();
        url.split_once('?').map_or(url, |(before, _)| before)
    }

    /// How many go into the next request.
    fn count(&self, messages: &[Message]) -> usize {
        let mut bytes = 0;
        let fits = messages
            .iter()
            .take(self.batch.max(1))
            .take_while(|message| {
                let fits = bytes < BODY_BYTES;
                bytes += message.text.len();
                fits
            });
        fits.count().max(1)
    }
}

impl Target for Server {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        self.send(messages).await
    }

    fn at_once(&self) -> usize {
        self.settings.batch_max
    }
}

fn connection() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    builder
}

/// Whether an answer is about this very alert, so that sending it again would be in vain. All else may be mended: the server, its
/// address, our credentials.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

/// What a busy server asks for, in seconds; dates are not understood.
fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let value = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The beginning of what a server said, for a log line.
fn beginning(text: &str) -> String {
    let line: String = text
        .chars()
        .take(120)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = line.trim();
    if line.is_empty() {
        String::new()
    } else {
        format!(": {line}")
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name).map_err(|error| format!("{name:?}: {error}"))
}

fn sensitive(value: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| "a secret has characters that no header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        crate::sink::assert_refused(
            Settings::check,
            &[
                ("{name: h, url: 'ftp://x'}", "neither http"),
                ("{name: h, url: '/x'}", "neither http"),
                ("{name: h, url: 'https://a:b@c/'}", "credentials"),
                (
                    "{name: h, url: 'http://c', tls: {ca_file: /x}}",
                    "only for https",
                ),
                ("{name: h, url: 'http://c', batch_max: 0}", "batch_max"),
                (
                    "{name: h, url: 'http://c', headers: {Content-Length: '1'}}",
                    "set by the sink itself",
                ),
                (
                    "{name: h, url: 'http://c', header_files: {Host: /x}}",
                    "set by the sink itself",
                ),
                (
                    "{name: h, url: 'http://c', headers: {authorization: 'Basic eA=='}}",
                    "is a secret",
                ),
                (
                    "{name: h, url: 'http://c', token_file: /x, header_files: {Authorization: /y}}",
                    "both set",
                ),
                ("{name: h, url: 'http://c', headers: {'a b': c}}", "\"a b\""),
                (
                    "{name: h, url: 'http://c', headers: {a: \"b\\nc\"}}",
                    "value of",
                ),
            ],
        );
        let place = place("https://[::1]:8443/a?b=c").expect("it is right");
        assert_eq!((place.host.as_str(), place.port), ("::1", 8443));
        assert_eq!((place.path.as_str(), place.is_tls), ("/a?b=c", true));
    }
}
