//! From the protocol header to an open virtual host, and back from there to a closed connection.

use crate::{
    capabilities::Capabilities,
    channel::method_id,
    connection::{Connection, Phase, Side},
    content::Frame,
    error::{Close, ReplyCode, short_text},
    event::Event,
    frame::{
        FRAME_HEARTBEAT, FRAME_MAX_CEILING, FRAME_METHOD, FRAME_MIN_SIZE, PROTOCOL_HEADER,
        payload_max,
    },
    method::{
        ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionSecure, ConnectionSecureOk,
        ConnectionStart, ConnectionStartOk, ConnectionTune, ConnectionTuneOk, Method,
    },
    options::{ClientOptions, ServerOptions},
    raw_table::RawTable,
};

/// The only locale anybody ever offered.
const LOCALE: &str = "en_US";

/// `connection.close-ok` on the wire.
const CLOSE_OK: &[u8] = &[1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, 206];

impl Connection {
    /// Server: the login is good; proposes limits.
    pub fn authenticated(&mut self, out: &mut Vec<u8>) {
        let Side::Server(options) = &self.side else { return };
        if self.phase != Phase::Login {
            return;
        }
        let tune = ConnectionTune {
            channel_max: options.channel_max,
            frame_max: offered_frame_max(options),
            heartbeat: options.heartbeat_secs,
        };
        self.phase = Phase::TuneOk;
        self.send(0, tune, out);
    }

    /// Server: the login mechanism wants to know more; [`Event::SecureResponse`] follows.
    pub fn challenge(&mut self, challenge: &[u8], out: &mut Vec<u8>) {
        if self.phase == Phase::Login {
            self.phase = Phase::SecureOk;
            self.send(0, ConnectionSecure { challenge }, out);
        }
    }

    /// Server: the login is refused. The client gets 403 with this text if it announced
    /// `authentication_failure_close`, otherwise no frame; the result says which.
    pub fn refuse(&mut self, text: &str, out: &mut Vec<u8>) -> Close {
        if self.phase != Phase::Login || !self.peer.authentication_failure_close {
            self.abort();
            return Close::SocketOnly;
        }
        let code = ReplyCode::AccessRefused;
        self.write_close(code, &code.text(text), (0, 0), out);
        Close::WithFrame
    }

    /// Client: answers [`Event::Challenge`].
    pub fn respond(&mut self, response: &[u8], out: &mut Vec<u8>) {
        if self.phase == Phase::Tune {
            self.send(0, ConnectionSecureOk { response }, out);
        }
    }

    /// What has to be done before the next frame is looked at, outside of [`Phase::Running`]. `Some` is what
    /// [`Connection::handle_bytes`] returns.
    #[cold]
    pub(crate) fn handle_before_frame(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Option<Event<'static>>> {
        match self.phase {
            Phase::Header => {
                let Some((header, rest)) = input.split_first_chunk::<8>() else {
                    return Some(None);
                };
                *input = rest;
                self.handle_protocol_header(*header, out).map(Some)
            }
            // A server that speaks another version says so by a header of its own.
            Phase::Start if input.starts_with(b"AMQP") => {
                *input = &[];
                let detail = "the server speaks another version of AMQP";
                Some(Some(self.fail(ReplyCode::NotImplemented, detail, (0, 0), out)))
            }
            Phase::Login | Phase::VirtualHost => Some(None),
            Phase::Draining => {
                let answered = input.ends_with(CLOSE_OK);
                *input = &[];
                Some(answered.then(|| self.finish()))
            }
            Phase::Finished => {
                *input = &[];
                Some(None)
            }
            Phase::StartOk
            | Phase::SecureOk
            | Phase::TuneOk
            | Phase::Open
            | Phase::Start
            | Phase::Tune
            | Phase::OpenOk
            | Phase::Running
            | Phase::Closing => None,
        }
    }

    /// A frame outside of [`Phase::Running`].
    #[cold]
    pub(crate) fn handle_other_phase<'a>(
        &mut self,
        frame: Frame<'a>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if self.phase == Phase::Closing {
            return self.handle_closing_frame(frame, out);
        }
        if frame.kind == FRAME_HEARTBEAT && frame.channel == 0 && frame.payload.is_empty() {
            return None;
        }
        if frame.kind != FRAME_METHOD || frame.channel != 0 {
            let detail = crate::snippet::unexpected(frame.kind, frame.payload);
            return Some(self.fail(ReplyCode::UnexpectedFrame, &detail, (0, 0), out));
        }
        let method = match Method::decode(frame.payload) {
            Ok(method) => method,
            Err(error) => {
                let id = method_id(frame.payload).unwrap_or_default();
                return Some(self.fail_decode(error, id, out));
            }
        };
        self.handle_handshake(method, out)
    }

    /// A frame on channel 0 while the connection is open.
    pub(crate) fn handle_open_connection_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if frame.kind == FRAME_HEARTBEAT {
            return None;
        }
        let method = match Method::decode(frame.payload) {
            Ok(method) => method,
            Err(error) => {
                let id = method_id(frame.payload).unwrap_or_default();
                return Some(self.fail_decode(error, id, out));
            }
        };
        let for_owner = match method {
            Method::ConnectionClose(close) => return Some(self.handle_close(close, out)),
            Method::ConnectionUpdateSecret(_) => self.is_server(),
            Method::ConnectionBlocked(_)
            | Method::ConnectionUnblocked(_)
            | Method::ConnectionUpdateSecretOk(_) => !self.is_server(),
            _ => false,
        };
        if for_owner {
            return Some(Event::Method { channel: 0, method });
        }
        let detail = "unexpected method in connection state running";
        Some(self.fail(ReplyCode::ChannelError, detail, method.id(), out))
    }

    /// Everything but close and close-ok crossed our close on the way and is dropped.
    fn handle_closing_frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        if frame.kind != FRAME_METHOD || frame.channel != 0 {
            return None;
        }
        match method_id(frame.payload)? {
            ConnectionCloseOk::ID => Some(self.finish()),
            // Both sides closed at once: the peer's answer to our close is still to come.
            ConnectionClose::ID => {
                self.send(0, ConnectionCloseOk {}, out);
                None
            }
            _ => None,
        }
    }

    fn handle_protocol_header(
        &mut self,
        header: [u8; 8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let Side::Server(options) = &self.side else { return None };
        let (version_major, version_minor) = match &header {
            PROTOCOL_HEADER | b"AMQP\x01\x01\x00\x09" => (0, 9),
            b"AMQP\x01\x01\x08\x00" => (8, 0),
            _ => {
                out.extend_from_slice(PROTOCOL_HEADER);
                let detail = format!("unknown protocol header {header:?}");
                return Some(self.fail(ReplyCode::NotImplemented, &detail, (0, 0), out));
            }
        };
        let options = options.clone();
        let start = options.properties.to_entries().and_then(|properties| {
            let start = ConnectionStart {
                version_major,
                version_minor,
                server_properties: RawTable::from_bytes(&properties),
                mechanisms: options.mechanisms.as_bytes(),
                locales: LOCALE.as_bytes(),
            };
            Method::from(start).encode(0, out)
        });
        self.phase = Phase::StartOk;
        let error = start.err()?;
        Some(self.fail(ReplyCode::InternalError, &error.to_string(), ConnectionStart::ID, out))
    }

    fn handle_handshake<'a>(&mut self, method: Method<'a>, out: &mut Vec<u8>) -> Option<Event<'a>> {
        match (self.phase, method) {
            (Phase::StartOk, Method::ConnectionStartOk(start)) => {
                Some(self.handle_start_ok(start, out))
            }
            (Phase::SecureOk, Method::ConnectionSecureOk(secure)) => {
                self.phase = Phase::Login;
                Some(Event::SecureResponse(secure.response))
            }
            (Phase::TuneOk, Method::ConnectionTuneOk(tune)) => self.handle_tune_ok(tune, out),
            (Phase::Open, Method::ConnectionOpen(open)) => {
                self.phase = Phase::VirtualHost;
                Some(Event::Open { virtual_host: open.virtual_host })
            }
            (Phase::Start, Method::ConnectionStart(start)) => Some(self.handle_start(start, out)),
            (Phase::Tune, Method::ConnectionSecure(secure)) => {
                Some(Event::Challenge(secure.challenge))
            }
            (Phase::Tune, Method::ConnectionTune(tune)) => self.handle_tune(tune, out),
            (Phase::OpenOk, Method::ConnectionOpenOk(_)) => {
                self.run();
                Some(Event::Opened)
            }
            // Who has not logged in gets no answer, not even to this.
            (phase, Method::ConnectionClose(close)) if phase != Phase::StartOk => {
                Some(self.handle_close(close, out))
            }
            (_, method) => {
                let detail = format!("unexpected method {} in the handshake", method.name());
                Some(self.fail(ReplyCode::ChannelError, &detail, method.id(), out))
            }
        }
    }

    fn handle_start_ok<'a>(
        &mut self,
        start: ConnectionStartOk<'a>,
        out: &mut Vec<u8>,
    ) -> Event<'a> {
        let ConnectionStartOk { client_properties, mechanism, response, locale } = start;
        let Side::Server(options) = &self.side else { return self.finish() };
        let offered = options.mechanisms.split_whitespace().any(|name| name == mechanism);
        self.peer = match Capabilities::of(client_properties) {
            Ok(capabilities) => capabilities,
            Err(error) => {
                let id = ConnectionStartOk::ID;
                return self.fail(ReplyCode::SyntaxError, &error.to_string(), id, out);
            }
        };
        if !offered {
            let detail = format!("unknown authentication mechanism '{mechanism}'");
            return self.fail(ReplyCode::CommandInvalid, &detail, ConnectionStartOk::ID, out);
        }
        self.phase = Phase::Login;
        Event::Authenticate { mechanism, response, locale, client_properties }
    }

    /// Where the server has a limit, "no limit" is as wrong as more than that.
    fn handle_tune_ok(
        &mut self,
        tune: ConnectionTuneOk,
        out: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let Side::Server(options) = &self.side else { return None };
        let (channel_max, frame_max) = (options.channel_max, offered_frame_max(options));
        let detail = if is_over(tune.channel_max, channel_max) {
            format!("negotiated channel_max = {} is not within {channel_max}", tune.channel_max)
        } else if is_over(tune.frame_max, frame_max) || tune.frame_max < FRAME_MIN_SIZE {
            format!(
                "negotiated frame_max = {} is not within {FRAME_MIN_SIZE} and {frame_max}",
                tune.frame_max
            )
        } else {
            self.phase = Phase::Open;
            self.agree(tune);
            return None;
        };
        Some(self.fail(ReplyCode::NotAllowed, &detail, ConnectionTuneOk::ID, out))
    }

    fn agree(&mut self, tune: ConnectionTuneOk) {
        self.channel_max = tune.channel_max;
        self.payload_max = payload_max(tune.frame_max);
        self.timers.agree(tune.heartbeat);
    }

    fn handle_start<'a>(&mut self, start: ConnectionStart<'a>, out: &mut Vec<u8>) -> Event<'a> {
        let id = ConnectionStart::ID;
        match Capabilities::of(start.server_properties) {
            Ok(capabilities) => self.peer = capabilities,
            Err(error) => return self.fail(ReplyCode::SyntaxError, &error.to_string(), id, out),
        }
        let Side::Client(Some(options)) = &self.side else { return self.finish() };
        let mechanism = options.mechanism.as_bytes();
        if !start.mechanisms.split(|octet| *octet == b' ').any(|name| name == mechanism) {
            let offered = String::from_utf8_lossy(start.mechanisms).into_owned();
            let detail = format!(
                "the server does not take mechanism {}, it takes {}",
                options.mechanism,
                short_text(&offered)
            );
            return self.fail(ReplyCode::NotImplemented, &detail, id, out);
        }
        let encoded = write_start_ok(options, out);
        if let Err(error) = encoded {
            return self.fail(ReplyCode::InternalError, &error.to_string(), id, out);
        }
        self.phase = Phase::Tune;
        Event::Started { server_properties: start.server_properties }
    }

    fn handle_tune(&mut self, tune: ConnectionTune, out: &mut Vec<u8>) -> Option<Event<'static>> {
        let Side::Client(Some(options)) = &mut self.side else { return None };
        let agreed = ConnectionTuneOk {
            channel_max: lower(tune.channel_max, options.channel_max),
            frame_max: lower(tune.frame_max, options.frame_max)
                .clamp(FRAME_MIN_SIZE, FRAME_MAX_CEILING),
            heartbeat: lower(tune.heartbeat, options.heartbeat_secs),
        };
        let virtual_host = std::mem::take(&mut options.virtual_host);
        self.agree(agreed);
        self.phase = Phase::OpenOk;
        self.send(0, agreed, out);
        let open = ConnectionOpen { virtual_host: &virtual_host };
        let error = Method::from(open).encode(0, out).err()?;
        Some(self.fail(ReplyCode::InternalError, &error.to_string(), ConnectionOpen::ID, out))
    }
}

fn write_start_ok(
    options: &ClientOptions,
    out: &mut Vec<u8>,
) -> Result<(), crate::error::EncodeError> {
    let properties = options.properties.to_entries()?;
    let start_ok = ConnectionStartOk {
        client_properties: RawTable::from_bytes(&properties),
        mechanism: &options.mechanism,
        response: &options.response,
        locale: LOCALE,
    };
    Method::from(start_ok).encode(0, out)
}

/// "No limit" is offered as the longest frame this side takes part in.
fn offered_frame_max(options: &ServerOptions) -> u32 {
    match options.frame_max {
        0 => FRAME_MAX_CEILING,
        frame_max => frame_max.clamp(FRAME_MIN_SIZE, FRAME_MAX_CEILING),
    }
}

/// Whether `wanted` is more than `limit`, where 0 is no limit.
fn is_over<N: Copy + Ord + Default>(wanted: N, limit: N) -> bool {
    limit != N::default() && (wanted == N::default() || wanted > limit)
}

/// The lower of two limits, where 0 is none.
fn lower<N: Copy + Ord + Default>(one: N, other: N) -> N {
    if one == N::default() || other == N::default() { one.max(other) } else { one.min(other) }
}
