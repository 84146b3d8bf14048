//! Every method of AMQP 0-9-1 and RabbitMQ's extensions: one table, and what a macro makes of it.
//!
//! Fields have the specification's names (`type` is `kind`). Reserved arguments and access tickets are skipped when
//! read and sent as zero or empty.

use crate::{
    error::{DecodeError, EncodeError},
    fields::{Field, FieldReader, FieldWriter},
    frame::FRAME_METHOD,
    raw_table::RawTable,
    reader::Reader,
    writer::put_frame,
};

/// Which side may send a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Only the side that opened the connection.
    Client,
    /// Only the side that was connected to.
    Server,
    /// Either.
    Both,
}

macro_rules! methods {
    ($life:lifetime $(
        $(#[$doc:meta])*
        $class:literal $id:literal $sender:ident $text:literal $name:ident $(<$borrow:lifetime>)?
            [$($before:ty),*] { $($field:ident: $kind:ty),* } [$($after:ty),*];
    )*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("\n\n`", $text, "` (", stringify!($class), ", ", stringify!($id), ").")]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
            pub struct $name $(<$borrow>)? {
                $(
                    #[doc = concat!("`", stringify!($field), "` of `", $text, "`.")]
                    pub $field: $kind,
                )*
            }

            impl $(<$borrow>)? $name $(<$borrow>)? {
                /// Class and method number.
                pub const ID: (u16, u16) = ($class, $id);

                #[inline]
                fn read<'r $(: $borrow)?>(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
                    let _ = &reader;
                    $(<$before as Field<'_>>::read(reader)?;)*
                    let method = Self { $($field: Field::read(reader)?,)* };
                    $(<$after as Field<'_>>::read(reader)?;)*
                    Ok(method)
                }

                #[inline]
                fn write(&self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
                    let _ = &writer;
                    $(<$before as Field<'_>>::RESERVED.write(writer)?;)*
                    $(Field::write(self.$field, writer)?;)*
                    $(<$after as Field<'_>>::RESERVED.write(writer)?;)*
                    Ok(())
                }
            }

            impl<$life> From<$name $(<$borrow>)?> for Method<$life> {
                #[inline]
                fn from(method: $name $(<$borrow>)?) -> Self {
                    Self::$name(method)
                }
            }
        )*

        /// A method with its arguments, borrowed from the payload it was read from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Method<$life> {
            $(
                #[doc = concat!("`", $text, "`.")]
                $name($name $(<$borrow>)?),
            )*
        }

        impl<$life> Method<$life> {
            /// Class and method number of every method, in the order of the specification.
            pub const IDS: &'static [(u16, u16)] = &[$(($class, $id)),*];

            /// Class and method number.
            #[must_use]
            pub const fn id(&self) -> (u16, u16) {
                match self { $(Self::$name(_) => $name::ID,)* }
            }

            /// The name of the specification, for example `queue.declare`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $text,)* }
            }

            /// Which side may send it.
            #[must_use]
            pub const fn sender(&self) -> Sender {
                match self { $(Self::$name(_) => Sender::$sender,)* }
            }

            fn read(id: (u16, u16), reader: &mut FieldReader<$life>) -> Result<Self, DecodeError> {
                match id {
                    $(($class, $id) => $name::read(reader).map(Self::$name),)*
                    (class_id, method_id) => Err(DecodeError::UnknownMethod { class_id, method_id }),
                }
            }

            fn write(&self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
                match self { $(Self::$name(method) => method.write(writer),)* }
            }
        }
    };
}

// Class, number, sender, name, struct, [reserved in front] { arguments } [reserved behind].
methods! { 'a
    /// The server names its version, properties and login mechanisms.
    10 10 Server "connection.start" ConnectionStart<'a> [] { version_major: u8, version_minor: u8, server_properties: RawTable<'a>, mechanisms: &'a [u8], locales: &'a [u8] } [];
    /// The client chooses a mechanism and a locale.
    10 11 Client "connection.start-ok" ConnectionStartOk<'a> [] { client_properties: RawTable<'a>, mechanism: &'a str, response: &'a [u8], locale: &'a str } [];
    /// A further question of the login mechanism.
    10 20 Server "connection.secure" ConnectionSecure<'a> [] { challenge: &'a [u8] } [];
    /// The answer to [`ConnectionSecure`].
    10 21 Client "connection.secure-ok" ConnectionSecureOk<'a> [] { response: &'a [u8] } [];
    /// The server proposes limits; 0 is no limit, a heartbeat in seconds.
    10 30 Server "connection.tune" ConnectionTune [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
    /// The limits that hold.
    10 31 Client "connection.tune-ok" ConnectionTuneOk [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
    /// The client names a virtual host.
    10 40 Client "connection.open" ConnectionOpen<'a> [] { virtual_host: &'a str } [&str, bool];
    /// The virtual host is open.
    10 41 Server "connection.open-ok" ConnectionOpenOk [] {} [&str];
    /// The connection ends; class and method say which method is to blame, 0 if none.
    10 50 Both "connection.close" ConnectionClose<'a> [] { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 } [];
    /// The last frame of a connection.
    10 51 Both "connection.close-ok" ConnectionCloseOk [] {} [];
    /// RabbitMQ: the server takes no messages for now.
    10 60 Server "connection.blocked" ConnectionBlocked<'a> [] { reason: &'a str } [];
    /// RabbitMQ: the server takes messages again.
    10 61 Server "connection.unblocked" ConnectionUnblocked [] {} [];
    /// RabbitMQ: a fresh token before the old one expires.
    10 70 Client "connection.update-secret" ConnectionUpdateSecret<'a> [] { new_secret: &'a [u8], reason: &'a str } [];
    /// RabbitMQ: the fresh token holds.
    10 71 Server "connection.update-secret-ok" ConnectionUpdateSecretOk [] {} [];

    /// Opens the channel the frame is on.
    20 10 Client "channel.open" ChannelOpen [] {} [&str];
    /// The channel is open.
    20 11 Server "channel.open-ok" ChannelOpenOk [] {} [&[u8]];
    /// Stops or continues deliveries.
    20 20 Both "channel.flow" ChannelFlow [] { active: bool } [];
    /// The answer to [`ChannelFlow`].
    20 21 Both "channel.flow-ok" ChannelFlowOk [] { active: bool } [];
    /// The channel ends; class and method say which method is to blame, 0 if none.
    20 40 Both "channel.close" ChannelClose<'a> [] { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 } [];
    /// The last frame of a channel; its number is free again.
    20 41 Both "channel.close-ok" ChannelCloseOk [] {} [];

    /// AMQP 0-8: asks for an access ticket.
    30 10 Client "access.request" AccessRequest<'a> [] { realm: &'a str, exclusive: bool, passive: bool, active: bool, write: bool, read: bool } [];
    /// AMQP 0-8: a ticket, which means nothing.
    30 11 Server "access.request-ok" AccessRequestOk [] { ticket: u16 } [];

    /// Creates an exchange, or checks that there is one.
    40 10 Client "exchange.declare" ExchangeDeclare<'a> [u16] { exchange: &'a str, kind: &'a str, passive: bool, durable: bool, auto_delete: bool, internal: bool, no_wait: bool, arguments: RawTable<'a> } [];
    /// The exchange is there.
    40 11 Server "exchange.declare-ok" ExchangeDeclareOk [] {} [];
    /// Deletes an exchange.
    40 20 Client "exchange.delete" ExchangeDelete<'a> [u16] { exchange: &'a str, if_unused: bool, no_wait: bool } [];
    /// The exchange is gone.
    40 21 Server "exchange.delete-ok" ExchangeDeleteOk [] {} [];
    /// RabbitMQ: binds an exchange to an exchange.
    40 30 Client "exchange.bind" ExchangeBind<'a> [u16] { destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: RawTable<'a> } [];
    /// RabbitMQ: the exchanges are bound.
    40 31 Server "exchange.bind-ok" ExchangeBindOk [] {} [];
    /// RabbitMQ: removes a binding between exchanges.
    40 40 Client "exchange.unbind" ExchangeUnbind<'a> [u16] { destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: RawTable<'a> } [];
    /// RabbitMQ: the binding is gone. 51, not 41.
    40 51 Server "exchange.unbind-ok" ExchangeUnbindOk [] {} [];

    /// Creates a queue, or checks that there is one.
    50 10 Client "queue.declare" QueueDeclare<'a> [u16] { queue: &'a str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, no_wait: bool, arguments: RawTable<'a> } [];
    /// The queue is there.
    50 11 Server "queue.declare-ok" QueueDeclareOk<'a> [] { queue: &'a str, message_count: u32, consumer_count: u32 } [];
    /// Binds a queue to an exchange.
    50 20 Client "queue.bind" QueueBind<'a> [u16] { queue: &'a str, exchange: &'a str, routing_key: &'a str, no_wait: bool, arguments: RawTable<'a> } [];
    /// The queue is bound.
    50 21 Server "queue.bind-ok" QueueBindOk [] {} [];
    /// Drops the ready messages of a queue.
    50 30 Client "queue.purge" QueuePurge<'a> [u16] { queue: &'a str, no_wait: bool } [];
    /// So many messages were dropped.
    50 31 Server "queue.purge-ok" QueuePurgeOk [] { message_count: u32 } [];
    /// Deletes a queue.
    50 40 Client "queue.delete" QueueDelete<'a> [u16] { queue: &'a str, if_unused: bool, if_empty: bool, no_wait: bool } [];
    /// The queue is gone, and so many messages with it.
    50 41 Server "queue.delete-ok" QueueDeleteOk [] { message_count: u32 } [];
    /// Removes a binding.
    50 50 Client "queue.unbind" QueueUnbind<'a> [u16] { queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: RawTable<'a> } [];
    /// The binding is gone.
    50 51 Server "queue.unbind-ok" QueueUnbindOk [] {} [];

    /// How much may be unacknowledged; sizes in bytes, 0 is no limit.
    60 10 Client "basic.qos" BasicQos [] { prefetch_size: u32, prefetch_count: u16, global: bool } [];
    /// The limits hold.
    60 11 Server "basic.qos-ok" BasicQosOk [] {} [];
    /// Starts a consumer.
    60 20 Client "basic.consume" BasicConsume<'a> [u16] { queue: &'a str, consumer_tag: &'a str, no_local: bool, no_ack: bool, exclusive: bool, no_wait: bool, arguments: RawTable<'a> } [];
    /// The consumer has this tag.
    60 21 Server "basic.consume-ok" BasicConsumeOk<'a> [] { consumer_tag: &'a str } [];
    /// Ends a consumer; RabbitMQ sends it too, when the queue is gone.
    60 30 Both "basic.cancel" BasicCancel<'a> [] { consumer_tag: &'a str, no_wait: bool } [];
    /// The consumer has ended. RabbitMQ takes none from a client.
    60 31 Server "basic.cancel-ok" BasicCancelOk<'a> [] { consumer_tag: &'a str } [];
    /// Publishes the content that follows.
    60 40 Client "basic.publish" BasicPublish<'a> [u16] { exchange: &'a str, routing_key: &'a str, mandatory: bool, immediate: bool } [];
    /// The content that follows met no queue.
    60 50 Server "basic.return" BasicReturn<'a> [] { reply_code: u16, reply_text: &'a str, exchange: &'a str, routing_key: &'a str } [];
    /// The content that follows is for a consumer.
    60 60 Server "basic.deliver" BasicDeliver<'a> [] { consumer_tag: &'a str, delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str } [];
    /// Asks for one message.
    60 70 Client "basic.get" BasicGet<'a> [u16] { queue: &'a str, no_ack: bool } [];
    /// The content that follows is the message asked for.
    60 71 Server "basic.get-ok" BasicGetOk<'a> [] { delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str, message_count: u32 } [];
    /// There is no message.
    60 72 Server "basic.get-empty" BasicGetEmpty [] {} [&str];
    /// A delivery, or (RabbitMQ) a published message, is safe.
    60 80 Both "basic.ack" BasicAck [] { delivery_tag: u64, multiple: bool } [];
    /// A delivery is refused.
    60 90 Client "basic.reject" BasicReject [] { delivery_tag: u64, requeue: bool } [];
    /// As [`BasicRecover`], without an answer.
    60 100 Client "basic.recover-async" BasicRecoverAsync [] { requeue: bool } [];
    /// Takes all unacknowledged deliveries back.
    60 110 Client "basic.recover" BasicRecover [] { requeue: bool } [];
    /// They were taken back.
    60 111 Server "basic.recover-ok" BasicRecoverOk [] {} [];
    /// RabbitMQ: deliveries are refused, or a published message is.
    60 120 Both "basic.nack" BasicNack [] { delivery_tag: u64, multiple: bool, requeue: bool } [];

    /// RabbitMQ: the server acknowledges what is published on this channel.
    85 10 Client "confirm.select" ConfirmSelect [] { no_wait: bool } [];
    /// RabbitMQ: it does.
    85 11 Server "confirm.select-ok" ConfirmSelectOk [] {} [];

    /// The channel is transactional.
    90 10 Client "tx.select" TxSelect [] {} [];
    /// It is.
    90 11 Server "tx.select-ok" TxSelectOk [] {} [];
    /// Makes the transaction so.
    90 20 Client "tx.commit" TxCommit [] {} [];
    /// It is so.
    90 21 Server "tx.commit-ok" TxCommitOk [] {} [];
    /// Drops the transaction.
    90 30 Client "tx.rollback" TxRollback [] {} [];
    /// It is dropped.
    90 31 Server "tx.rollback-ok" TxRollbackOk [] {} [];
}

impl<'a> Method<'a> {
    /// Reads the payload of a method frame.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the method is unknown, ends early, has bytes left over or a short string is not UTF-8.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let id = (reader.u16()?, reader.u16()?);
        let mut fields = FieldReader::new(reader);
        let method = Self::read(id, &mut fields)?;
        fields.finish()?;
        Ok(method)
    }

    /// Appends the whole frame, end octet included.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a short string has more than 255 bytes; `out` is then as it was. Whether the frame fits the
    /// peer's `frame_max` is the caller's affair: only arguments and properties can make a method long.
    pub fn encode(&self, channel: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_frame(out, FRAME_METHOD, channel, |out| {
            let (class_id, method_id) = self.id();
            out.extend_from_slice(&class_id.to_be_bytes());
            out.extend_from_slice(&method_id.to_be_bytes());
            self.write(&mut FieldWriter::new(out))
        })
    }
}

impl<'a> BasicPublish<'a> {
    /// Reads the arguments of a `basic.publish` after class and method: the hottest of all methods, without the detour
    /// over the table.
    #[inline]
    pub(crate) fn decode_arguments(arguments: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = FieldReader::new(Reader::new(arguments));
        let method = Self::read(&mut fields)?;
        fields.finish()?;
        Ok(method)
    }
}
