//! Checksums of bodies, as Zaqar has them.

use md5::{Digest as _, Md5};

use crate::door::zaqar::json::write;

/// The MD5 of a body's JSON, in 32 hexadecimal digits. It finds accidents; against forgers it is worth nothing.
pub(super) fn of(body: &[u8]) -> String {
    let mut digits = Vec::with_capacity(32);
    for byte in Md5::digest(body) {
        write::hex(&mut digits, byte.into(), 2);
    }
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_checksum_is_the_md5_of_the_body() {
        assert_eq!(super::of(b"\"abc\""), "ebd9f4c7b06cb0aaf5d13d80e49d8b90".to_owned());
    }
}
