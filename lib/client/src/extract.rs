//! What handlers take: parts of a message, the application's state, and the body last.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::codec::{CodecError, Format, essence, from_csv};
use crate::delivery::{Delivery, Meta};
use crate::outcome::{Fail, story};
use crate::trace::TraceContext;

/// Something a handler takes beside the body; it may run before others that take from the same message.
pub trait FromParts<S>: Sized {
    /// Takes it.
    ///
    /// A failure ends the handling before the handler runs.
    fn from_parts(
        delivery: &mut Delivery,
        state: &S,
    ) -> impl Future<Output = Result<Self, Fail>> + Send;
}

/// The last thing a handler takes: the body.
///
/// `M` only keeps the two ways apart, as in axum; it is never written.
pub trait FromDelivery<S, M = ViaDelivery>: Sized {
    /// Takes it.
    ///
    /// A failure ends the handling before the handler runs.
    fn from_delivery(
        delivery: Delivery,
        state: &S,
    ) -> impl Future<Output = Result<Self, Fail>> + Send;
}

/// The message itself is taken.
#[derive(Debug, Clone, Copy)]
pub enum ViaDelivery {}

/// Only parts are taken.
#[derive(Debug, Clone, Copy)]
pub enum ViaParts {}

impl<S: Sync, T: FromParts<S>> FromDelivery<S, ViaParts> for T {
    async fn from_delivery(mut delivery: Delivery, state: &S) -> Result<Self, Fail> {
        T::from_parts(&mut delivery, state).await
    }
}

/// A part of the application's state.
pub trait FromState<S> {
    /// Takes it, usually a clone.
    fn from_state(state: &S) -> Self;
}

impl<S: Clone> FromState<S> for S {
    fn from_state(state: &S) -> Self {
        state.clone()
    }
}

/// The application's state, or a part of it by [`FromState`].
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<S: Sync, T: FromState<S>> FromParts<S> for State<T> {
    async fn from_parts(_delivery: &mut Delivery, state: &S) -> Result<Self, Fail> {
        Ok(Self(T::from_state(state)))
    }
}

impl<S: Sync> FromParts<S> for Meta {
    async fn from_parts(delivery: &mut Delivery, _state: &S) -> Result<Self, Fail> {
        Ok(Self::from(&*delivery))
    }
}

impl<S: Sync> FromParts<S> for Option<TraceContext> {
    async fn from_parts(delivery: &mut Delivery, _state: &S) -> Result<Self, Fail> {
        Ok(TraceContext::current().or_else(|| delivery.header("traceparent")?.parse().ok()))
    }
}

/// What a layer has noted with [`Delivery::extensions_mut`].
#[derive(Debug, Clone, Copy)]
pub struct Extension<T>(pub T);

impl<S: Sync, T: Clone + Send + Sync + 'static> FromParts<S> for Extension<T> {
    async fn from_parts(delivery: &mut Delivery, _state: &S) -> Result<Self, Fail> {
        let noted = delivery.extensions().get::<T>().cloned();
        noted.map(Self).ok_or_else(|| {
            Fail::retry(format!("no layer has noted a {}", std::any::type_name::<T>()))
        })
    }
}

/// The whole message.
impl<S: Sync> FromDelivery<S> for Delivery {
    async fn from_delivery(delivery: Delivery, _state: &S) -> Result<Self, Fail> {
        Ok(delivery)
    }
}

/// A body that can be read from a message alone; what batches are made of.
pub trait Body: Sized + Send + 'static {
    /// Why it cannot be read; the message goes to the dead letters with that.
    type Error: std::error::Error;

    /// Reads it.
    ///
    /// # Errors
    ///
    /// If the body is not what is expected.
    fn read(delivery: &Delivery) -> Result<Self, Self::Error>;
}

/// A value in JSON, MessagePack or CBOR, by the content type; JSON if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typed<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> Body for Typed<T> {
    type Error = CodecError;

    fn read(delivery: &Delivery) -> Result<Self, CodecError> {
        let format = Format::of(delivery.properties().content_type)?;
        format.decode(delivery.body_bytes()).map(Self)
    }
}

/// A value in JSON, whatever the content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> Body for Json<T> {
    type Error = CodecError;

    fn read(delivery: &Delivery) -> Result<Self, CodecError> {
        Format::Json.decode(delivery.body_bytes()).map(Self)
    }
}

/// Rows of CSV whose first row names the fields. The content type must be `text/csv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csv<T>(pub Vec<T>);

impl<T: DeserializeOwned + Send + 'static> Body for Csv<T> {
    type Error = CodecError;

    fn read(delivery: &Delivery) -> Result<Self, CodecError> {
        let content_type = essence(delivery.properties().content_type.unwrap_or_default());
        if !content_type.eq_ignore_ascii_case("text/csv") {
            return Err(CodecError::Unknown(content_type.to_owned()));
        }
        from_csv(delivery.body_bytes()).map(Self)
    }
}

/// Text in UTF-8, whatever the content type says.
impl Body for String {
    type Error = std::str::Utf8Error;

    fn read(delivery: &Delivery) -> Result<Self, Self::Error> {
        std::str::from_utf8(delivery.body_bytes()).map(str::to_owned)
    }
}

/// The bytes as they came, without a copy.
impl Body for Bytes {
    type Error = Infallible;

    fn read(delivery: &Delivery) -> Result<Self, Infallible> {
        Ok(delivery.body())
    }
}

macro_rules! from_delivery {
    ($([$($parameter:ident)?] $body:ty;)*) => {
        $(
            impl<S: Sync $(, $parameter: DeserializeOwned + Send + 'static)?> FromDelivery<S> for $body {
                async fn from_delivery(delivery: Delivery, _state: &S) -> Result<Self, Fail> {
                    read(&delivery)
                }
            }
        )*
    };
}

from_delivery! {
    [T] Typed<T>;
    [T] Json<T>;
    [T] Csv<T>;
    [] String;
    [] Bytes;
}

/// A body, or the way to the dead letters: what cannot be read today cannot be read tomorrow.
pub(crate) fn read<B: Body>(delivery: &Delivery) -> Result<B, Fail> {
    B::read(delivery).map_err(|error| Fail::dead(story(&error)))
}
