//! Frames, and the arguments of methods, octet by octet.
//!
//! ```text
//! type u8 | channel u16 | size u32 | payload | 0xCE
//! ```

use crate::Value;

/// A frame that carries a method.
pub const METHOD: u8 = 1;
/// A frame that carries the header of a content.
pub const HEADER: u8 = 2;
/// A frame that carries a part of a body.
pub const BODY: u8 = 3;
/// A frame that only says "I live".
pub const HEARTBEAT: u8 = 8;
/// The octet at the end of each frame.
pub const END: u8 = 0xCE;

/// One frame as it stood on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 1, 2, 3 or 8.
    pub kind: u8,
    /// 0 for the connection itself.
    pub channel: u16,
    /// What is between the size and the end octet.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The octets of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = u32::try_from(self.payload.len()).expect("a payload below 4 GiB");
        Args::default()
            .octet(self.kind)
            .short(self.channel)
            .long(size)
            .bytes(&self.payload)
            .octet(END)
            .0
    }
}

/// The octets of a method frame.
#[must_use]
pub fn method(channel: u16, class: u16, method: u16, args: &Args) -> Vec<u8> {
    let payload = Args::default().short(class).short(method).bytes(&args.0).0;
    Frame { kind: METHOD, channel, payload }.encode()
}

/// Arguments being written.
#[derive(Debug, Default, Clone)]
pub struct Args(pub Vec<u8>);

impl Args {
    /// Raw octets.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One octet; also up to eight bits, lowest first.
    #[must_use]
    pub fn octet(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    /// Bits packed into one octet, the first one lowest.
    #[must_use]
    pub fn bits(self, bits: &[bool]) -> Self {
        self.octet(bits.iter().rev().fold(0, |octet, bit| octet << 1 | u8::from(*bit)))
    }

    /// Two octets.
    #[must_use]
    pub fn short(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Four octets.
    #[must_use]
    pub fn long(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Eight octets.
    #[must_use]
    pub fn longlong(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A string of at most 255 octets.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        let size = u8::try_from(text.len()).expect("a short string");
        self.octet(size).bytes(text.as_bytes())
    }

    /// A string with a length of four octets.
    #[must_use]
    pub fn long_text(self, text: &[u8]) -> Self {
        let size = u32::try_from(text.len()).expect("a string below 4 GiB");
        self.long(size).bytes(text)
    }

    /// A field table.
    #[must_use]
    pub fn table(self, fields: &[(String, Value)]) -> Self {
        let inner = fields
            .iter()
            .fold(Self::default(), |inner, (name, value)| value.write(inner.text(name)));
        self.long_text(&inner.0)
    }
}

/// Arguments being read; panics at the end, because the broker under test must not send less than it says.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `size` octets.
    pub fn bytes(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size);
        self.0 = rest;
        taken
    }

    /// The next `N` octets.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap()
    }

    /// One octet.
    pub fn octet(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two octets.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four octets.
    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight octets.
    pub fn longlong(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// A short string.
    pub fn text(&mut self) -> String {
        let size = self.octet();
        String::from_utf8(self.bytes(size.into()).to_vec()).expect("a short string in UTF-8")
    }

    /// A long string.
    pub fn long_text(&mut self) -> &'a [u8] {
        let size = self.long();
        self.bytes(usize::try_from(size).unwrap())
    }

    /// A field table.
    pub fn table(&mut self) -> Vec<(String, Value)> {
        let mut inner = Reader(self.long_text());
        let mut fields = Vec::new();
        while !inner.0.is_empty() {
            fields.push((inner.text(), Value::read(&mut inner)));
        }
        fields
    }
}
