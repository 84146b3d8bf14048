//! Which service, as whom, and the connection to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use uuid::Uuid;

use super::{Address, Answer};
use crate::transport;

/// For connecting, and for each answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer: a claim of twenty messages of the largest size that a server may be set to is far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the body of a request is.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Which queue service, and who asks it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Service {
    /// Where the queue service is: http://host:port, or https:// for TLS. Any server of Zaqar's API will do.
    #[arg(
        long,
        global = true,
        env = "POSTHOUSE_URL",
        default_value = "http://127.0.0.1:8888",
        help_heading = "Service"
    )]
    url: Address,
    /// Project whose queues are meant (X-Project-Id). With a token the service may know it.
    #[arg(long, global = true, env = "POSTHOUSE_PROJECT", help_heading = "Service")]
    project: Option<String>,
    /// UUID by which the service tells clients apart: `message list` leaves out what the same client has posted.
    /// Default: a new one for each command.
    #[arg(long, global = true, env = "POSTHOUSE_CLIENT_ID", help_heading = "Service")]
    client_id: Option<String>,
    /// Token of Keystone or of the service (X-Auth-Token).
    #[arg(
        long,
        global = true,
        env = "POSTHOUSE_TOKEN",
        hide_env_values = true,
        help_heading = "Service"
    )]
    token: Option<String>,
    /// PEM file of the authorities to trust instead of the system's.
    #[arg(
        long,
        global = true,
        env = "POSTHOUSE_CA",
        value_name = "FILE",
        help_heading = "Service"
    )]
    ca: Option<PathBuf>,
}

/// One connection, made when it is first needed and again when the server has closed it in between.
pub(crate) struct Connection {
    address: Address,
    host: HeaderValue,
    /// What every request carries.
    headers: Vec<(&'static str, HeaderValue)>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Service {
    /// A connection for the commands of this run.
    ///
    /// # Errors
    ///
    /// If project, client or token cannot stand in a header.
    pub(crate) fn connection(&self) -> anyhow::Result<Connection> {
        let client_id = self.client_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let mut headers = vec![("client-id", header("--client-id", &client_id)?)];
        if let Some(project) = &self.project {
            headers.push(("x-project-id", header("--project", project)?));
        }
        if let Some(token) = &self.token {
            let mut token = header("--token", token.trim_end())?;
            token.set_sensitive(true);
            headers.push(("x-auth-token", token));
        }
        let mut address = self.url.clone();
        address.peer.authorities.clone_from(&self.ca);
        let host = header("--url", &address.peer.place())?;
        Ok(Connection { address, host, headers, sender: None })
    }
}

fn header(option: &str, value: &str) -> anyhow::Result<HeaderValue> {
    HeaderValue::from_str(value).with_context(|| format!("{option}: cannot stand in a header"))
}

impl Connection {
    /// Asks for `path` (from `/v2` on, with its query).
    ///
    /// # Errors
    ///
    /// What kept the request from being answered, or how the service refused it.
    pub(crate) async fn ask(&mut self, method: Method, path: &str) -> anyhow::Result<Answer> {
        self.send(method, path, None).await
    }

    /// Asks with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Connection::ask`].
    pub(crate) async fn tell(
        &mut self,
        method: Method,
        path: &str,
        body: impl ToString,
    ) -> anyhow::Result<Answer> {
        self.send(method, path, Some((JSON, body.to_string()))).await
    }

    /// Asks with a body of another kind than JSON.
    ///
    /// # Errors
    ///
    /// As [`Connection::ask`].
    pub(crate) async fn tell_as(
        &mut self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: impl ToString,
    ) -> anyhow::Result<Answer> {
        let kind = HeaderValue::from_static(kind);
        self.send(method, path, Some((kind, body.to_string()))).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(HeaderValue, String)>,
    ) -> anyhow::Result<Answer> {
        let place = self.address.peer.place();
        tokio::time::timeout(TIMEOUT, self.send_now(method, path, body))
            .await
            .with_context(|| format!("{place} did not answer within {TIMEOUT:?}"))?
    }

    async fn send_now(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(HeaderValue, String)>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.prefix))
            .header(HOST, self.host.clone())
            .header(ACCEPT, JSON);
        for (name, value) in &self.headers {
            request = request.header(*name, value.clone());
        }
        let body = match body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, kind);
                Bytes::from(body)
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).context("request cannot be made")?;
        let place = self.address.peer.place();
        let response = self
            .sender()
            .await?
            .send_request(request)
            .await
            .with_context(|| format!("{place} does not answer in HTTP"))?;
        let status = response.status();
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(str::to_owned);
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("answer of {place} broke off: {error}"))?;
        Answer::of(status, location, body.to_bytes().to_vec())
    }

    async fn sender(&mut self) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        let ready = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            let stream = transport::connect(&self.address.peer, "--url").await?;
            let (sender, connection) =
                handshake(TokioIo::new(stream)).await.context("HTTP cannot be begun")?;
            // Its error is the request's as well, and said there.
            tokio::spawn(async move { drop(connection.await) });
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("no connection")
    }
}
