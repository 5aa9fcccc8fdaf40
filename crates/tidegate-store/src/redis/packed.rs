//! What a script is to know of many events goes there as one argument, in MessagePack: the server takes that apart several
//! times faster than as many arguments.

/// Values one behind the other, in lists.
#[derive(Debug, Default)]
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins a list of so many values, which follow.
    pub(crate) fn list(&mut self, count: usize) -> &mut Self {
        self.head(0xdd, count)
    }

    /// Any bytes, as text: what unpacks them knows no other kind.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        match u8::try_from(bytes.len()) {
            Ok(short) => self.0.extend_from_slice(&[0xd9, short]),
            Err(_) => {
                self.head(0xdb, bytes.len());
            }
        }
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// A number; scripts know whole ones up to 2^53.
    pub(crate) fn number(&mut self, number: i64) -> &mut Self {
        match u8::try_from(number) {
            Ok(small) if small < 0x80 => self.0.push(small),
            _ => {
                self.0.push(0xd3);
                self.0.extend_from_slice(&number.to_be_bytes());
            }
        }
        self
    }

    /// A count or size.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.number(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A number, or false when there is none.
    pub(crate) fn maybe(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.number(number),
            None => self.flag(false),
        }
    }

    pub(crate) fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.push(if flag { 0xc3 } else { 0xc2 });
        self
    }

    /// Lists and long texts say in four bytes how long they are; an argument cannot be longer.
    fn head(&mut self, kind: u8, length: usize) -> &mut Self {
        self.0.push(kind);
        self.0.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_messagepack_has_them() {
        let mut packed = Packed::default();
        packed.list(2).number(127).number(128).text("ab").maybe(None).maybe(Some(-1)).flag(true).count(3);
        let number = |first: u8, last: u8| [&[0xd3], &[first; 7][..], &[last]].concat();
        let wanted = [
            &[0xdd, 0, 0, 0, 2, 127][..],
            &number(0, 128),
            &[0xd9, 2, b'a', b'b', 0xc2],
            &number(0xff, 0xff),
            &[0xc3, 3],
        ];
        assert_eq!(packed.as_bytes(), wanted.concat());
        let mut long = Packed::default();
        long.bytes(&[7; 256]);
        assert_eq!(long.as_bytes(), [&[0xdb, 0, 0, 1, 0][..], &[7; 256]].concat());
    }
}
