//! How one argument of a method is read and written: the kinds a row of the method table may name.

use crate::{
    error::{DecodeError, EncodeError},
    raw_table::RawTable,
    reader::Reader,
    writer::{put_long, put_short},
};

/// Reads arguments in order; neighbouring bits share an octet.
#[derive(Debug)]
pub(crate) struct FieldReader<'r> {
    bytes: Reader<'r>,
    bits: u8,
    bits_left: u8,
}

impl<'r> FieldReader<'r> {
    #[inline]
    pub(crate) const fn new(bytes: Reader<'r>) -> Self {
        Self { bytes, bits: 0, bits_left: 0 }
    }

    #[inline]
    const fn octets(&mut self) -> &mut Reader<'r> {
        self.bits_left = 0;
        &mut self.bytes
    }

    #[inline]
    fn bit(&mut self) -> Result<bool, DecodeError> {
        if self.bits_left == 0 {
            self.bits = self.bytes.u8()?;
            self.bits_left = 8;
        }
        let bit = self.bits & 1 == 1;
        self.bits >>= 1;
        self.bits_left -= 1;
        Ok(bit)
    }

    #[inline]
    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        self.bytes.finish()
    }
}

/// Writes arguments in order; neighbouring bits share an octet.
#[derive(Debug)]
pub(crate) struct FieldWriter<'w> {
    out: &'w mut Vec<u8>,
    bits: u8,
}

impl<'w> FieldWriter<'w> {
    #[inline]
    pub(crate) const fn new(out: &'w mut Vec<u8>) -> Self {
        Self { out, bits: 0 }
    }

    #[inline]
    const fn octets(&mut self) -> &mut Vec<u8> {
        self.bits = 0;
        self.out
    }

    #[inline]
    fn bit(&mut self, bit: bool) {
        if self.bits == 0 || self.bits == 8 {
            self.out.push(0);
            self.bits = 0;
        }
        if let Some(last) = self.out.last_mut() {
            *last |= u8::from(bit) << self.bits;
        }
        self.bits += 1;
    }
}

/// A kind of argument.
pub(crate) trait Field<'r>: Sized {
    /// What a reserved argument of this kind is sent as.
    const RESERVED: Self;

    fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError>;
    fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError>;
}

macro_rules! integer_fields {
    ($($kind:ident),*) => {
        $(impl<'r> Field<'r> for $kind {
            const RESERVED: Self = 0;

            #[inline]
            fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
                reader.octets().$kind()
            }

            #[inline]
            fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
                writer.octets().extend_from_slice(&self.to_be_bytes());
                Ok(())
            }
        })*
    };
}

integer_fields!(u8, u16, u32, u64);

impl<'r> Field<'r> for bool {
    const RESERVED: Self = false;

    #[inline]
    fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
        reader.bit()
    }

    #[inline]
    fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
        writer.bit(self);
        Ok(())
    }
}

/// A short string.
impl<'r> Field<'r> for &'r str {
    const RESERVED: Self = "";

    #[inline]
    fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
        reader.octets().short_str()
    }

    #[inline]
    fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
        put_short(writer.octets(), self.as_bytes())
    }
}

/// A long string.
impl<'r> Field<'r> for &'r [u8] {
    const RESERVED: Self = &[];

    #[inline]
    fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
        reader.octets().long_bytes()
    }

    #[inline]
    fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
        put_long(writer.octets(), self)
    }
}

impl<'r> Field<'r> for RawTable<'r> {
    const RESERVED: Self = RawTable::EMPTY;

    #[inline]
    fn read(reader: &mut FieldReader<'r>) -> Result<Self, DecodeError> {
        reader.octets().long_bytes().map(RawTable::from_bytes)
    }

    #[inline]
    fn write(self, writer: &mut FieldWriter<'_>) -> Result<(), EncodeError> {
        put_long(writer.octets(), self.as_bytes())
    }
}
