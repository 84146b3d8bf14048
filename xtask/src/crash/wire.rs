//! AMQP 0-9-1 frames, read and written without the project's own codec.
//!
//! The rig judges the program from outside: a mistake that both sides of one codec share would be invisible to it.

/// Octet that ends each frame.
const FRAME_END: u8 = 0xCE;

/// Method, header and body frames.
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;

/// Class and method as one number.
pub(crate) const fn id(class: u16, method: u16) -> u32 {
    ((class as u32) << 16) | method as u32
}

/// A value of a field table, as far as the rig needs them.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// `I`, 32 bits.
    Int(i32),
    /// `S`.
    Text(&'static str),
    /// `t`.
    Bool(bool),
    /// `F`.
    Table(Vec<(&'static str, Self)>),
}

/// Writes frames into a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A short string; what is longer than 255 bytes is cut.
    pub(crate) fn short(&mut self, text: &str) -> &mut Self {
        let bytes = text.as_bytes();
        let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.0.push(len);
        self.0.extend(bytes.iter().take(usize::from(len)));
        self
    }

    pub(crate) fn long(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).0.extend(bytes);
        self
    }

    pub(crate) fn table(&mut self, entries: &[(&'static str, Value)]) -> &mut Self {
        let mut inner = Self::default();
        for (name, value) in entries {
            inner.short(name);
            match value {
                Value::Int(number) => inner.u8(b'I').0.extend(number.to_be_bytes()),
                Value::Text(text) => {
                    inner.u8(b'S').long(text.as_bytes());
                }
                Value::Bool(truth) => {
                    inner.u8(b't').u8(u8::from(*truth));
                }
                Value::Table(entries) => {
                    inner.u8(b'F').table(entries);
                }
            }
        }
        self.long(&inner.0)
    }

    /// One frame around what `payload` writes.
    pub(crate) fn frame(&mut self, kind: u8, channel: u16, payload: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        payload(&mut inner);
        self.u8(kind).u16(channel).long(&inner.0).u8(FRAME_END);
    }
}

/// A frame that was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Takes one whole frame off the start of the buffer; its length is added to `taken`.
    ///
    /// # Errors
    ///
    /// If the bytes are no frame.
    pub(crate) fn take(buffer: &[u8], taken: &mut usize) -> Result<Option<Self>, String> {
        let input = buffer.get(*taken..).unwrap_or_default();
        let mut reader = Reader(input);
        let (Some(kind), Some(channel), Some(len)) = (reader.u8(), reader.u16(), reader.u32())
        else {
            return Ok(None);
        };
        let len = len as usize;
        let Some(payload) = input.get(7..7 + len) else { return Ok(None) };
        match input.get(7 + len) {
            None => Ok(None),
            Some(&FRAME_END) => {
                *taken += len + 8;
                Ok(Some(Self { kind, channel, payload: payload.to_vec() }))
            }
            Some(other) => Err(format!("a frame of kind {kind} ends with {other:#x}")),
        }
    }
}

/// Reads what a payload holds; `None` when it is too short.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn short(&mut self) -> Option<String> {
        let len = usize::from(self.u8()?);
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    pub(crate) fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }
}

/// The `message-id` of encoded basic properties (AMQP 0-9-1 §1.8: a property is there if its flag is set, in order).
pub(crate) fn message_id(properties: &[u8]) -> Option<String> {
    let mut reader = Reader(properties);
    let flags = reader.u16()?;
    let has = |bit: u16| flags & (1 << bit) != 0;
    for bit in [15, 14] {
        if has(bit) {
            reader.short()?;
        }
    }
    if has(13) {
        reader.long()?;
    }
    for bit in [12, 11] {
        if has(bit) {
            reader.u8()?;
        }
    }
    for bit in [10, 9, 8] {
        if has(bit) {
            reader.short()?;
        }
    }
    if has(7) { reader.short() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_only_when_it_is_whole() {
        let mut writer = Writer::default();
        writer.frame(METHOD, 3, |out| {
            out.u32(id(60, 80)).u64(7).u8(1);
        });

        for cut in 0..writer.0.len() {
            assert!(Frame::take(&writer.0[..cut], &mut 0).unwrap().is_none());
        }
        let mut taken = 0;
        let frame = Frame::take(&writer.0, &mut taken).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, taken), (METHOD, 3, writer.0.len()));
    }

    #[test]
    fn the_message_id_is_found_behind_headers_priority_and_expiration() {
        let mut writer = Writer::default();
        writer.u16(1 << 13 | 1 << 12 | 1 << 11 | 1 << 8 | 1 << 7);
        writer.table(&[("x-delay", Value::Int(5))]).u8(2).u8(9).short("100").short("the id");

        assert_eq!(message_id(&writer.0).as_deref(), Some("the id"));
    }
}
