//! Names: uncompressed, in wire form, up to the root.

use std::fmt;

use super::WireError;

/// The longest name in wire form, in bytes (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;

/// A name in uncompressed wire form with the case that it came with. Compared regardless of case.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Parses dotted text; the last dot may be missing. `\.` and `\DDD` as in zone files. None for
    /// what cannot be a name: an empty or too long label, too long a whole.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "." || text.is_empty() {
            return Some(Self::root());
        }
        let mut wire = vec![0];
        let mut start = 0;
        let mut bytes = text.strip_suffix('.').unwrap_or(text).bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => {
                    wire[start] = label_length(&wire, start)?;
                    start = wire.len();
                    wire.push(0);
                }
                b'\\' => {
                    let first = bytes.next()?;
                    if first.is_ascii_digit() {
                        let digits = [first, bytes.next()?, bytes.next()?];
                        wire.push(std::str::from_utf8(&digits).ok()?.parse().ok()?);
                    } else {
                        wire.push(first);
                    }
                }
                byte => wire.push(byte),
            }
        }
        wire[start] = label_length(&wire, start)?;
        wire.push(0);
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// Reads a name at an offset of a message, with its compression. Also gives where it ends.
    ///
    /// # Errors
    /// When it is cut off or malformed.
    pub fn read(message: &[u8], offset: usize) -> Result<(Self, usize), WireError> {
        let mut buffer = [0; MAX_NAME];
        let (length, end) = read_into(message, offset, &mut buffer)?;
        Ok((Self(buffer[..length].into()), end))
    }

    /// The wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from the left.
    #[must_use]
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// How many labels there are, without the root.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// Whether this name is `other` or lies under it.
    #[must_use]
    pub fn is_under(&self, other: &Self) -> bool {
        is_suffix(&self.0, &other.0).is_some()
    }

    /// In lower case, as keys are.
    #[must_use]
    pub fn lowercased(&self) -> Self {
        // Lengths of labels are below 64, so no length is a letter.
        Self(self.0.to_ascii_lowercase().into())
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn label_length(wire: &[u8], start: usize) -> Option<u8> {
    let length = wire.len() - start - 1;
    (1..=63).contains(&length).then(|| u8::try_from(length).unwrap_or_default())
}

/// The labels of an uncompressed name.
#[derive(Debug, Clone)]
pub struct Labels<'a>(pub &'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        if length == 0 || usize::from(length) > rest.len() {
            return None;
        }
        let (label, rest) = rest.split_at(usize::from(length));
        self.0 = rest;
        Some(label)
    }
}

/// Whether two labels are the same name.
#[must_use]
pub fn label_eq(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Where `suffix` begins in `name`, both in uncompressed wire form, when it is at a label's border.
pub(crate) fn is_suffix(name: &[u8], suffix: &[u8]) -> Option<usize> {
    let start = name.len().checked_sub(suffix.len())?;
    if !name[start..].eq_ignore_ascii_case(suffix) {
        return None;
    }
    let mut at = 0;
    while at < start {
        at += usize::from(name[at]) + 1;
    }
    (at == start).then_some(start)
}

/// Reads a compressed name into a buffer; gives its length and where it ends in the message.
pub(crate) fn read_into(
    message: &[u8],
    offset: usize,
    buffer: &mut [u8; MAX_NAME],
) -> Result<(usize, usize), WireError> {
    let (mut at, mut length, mut end) = (offset, 0, None);
    // A pointer must point before everything that was read so far, so this ends.
    let mut lowest = offset;
    loop {
        let &byte = message.get(at).ok_or(WireError::Short)?;
        match byte {
            0 => {
                *buffer.get_mut(length).ok_or(WireError::Name)? = 0;
                return Ok((length + 1, end.unwrap_or(at + 1)));
            }
            1..=63 => {
                let next = at + 1 + usize::from(byte);
                let label = message.get(at..next).ok_or(WireError::Short)?;
                let place = length..length + label.len();
                buffer.get_mut(place).ok_or(WireError::Name)?.copy_from_slice(label);
                length += label.len();
                at = next;
            }
            0xC0.. => {
                let &low = message.get(at + 1).ok_or(WireError::Short)?;
                let target = usize::from(byte & 0x3F) << 8 | usize::from(low);
                if target >= lowest {
                    return Err(WireError::Name);
                }
                end.get_or_insert(at + 2);
                (at, lowest) = (target, target);
            }
            _ => return Err(WireError::Name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_wire_are_the_same_name() {
        let name = Name::parse("Kube-DNS.kube-system.svc").unwrap();
        assert_eq!(name.to_string(), "Kube-DNS.kube-system.svc.");
        assert_eq!(name, Name::parse("kube-dns.KUBE-system.svc.").unwrap());
        assert_eq!(Name::parse(r"a\.b\032.c").unwrap().to_string(), r"a\.b\032.c.");
        assert_eq!(Name::parse(".").unwrap().wire(), [0]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["a..b", ".a", &"a".repeat(64), &"a.".repeat(128), r"a\25", r"a\999"] {
            assert!(Name::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn pointers_may_only_point_back() {
        let message = b"\x01a\0\x01b\xC0\x00\xC0\x03\xC0\x09";
        assert_eq!(Name::read(message, 3).unwrap().0.to_string(), "b.a.");
        assert_eq!(Name::read(message, 7).unwrap().0.to_string(), "b.a.");
        assert_eq!(Name::read(message, 7).unwrap().1, 9);
        assert_eq!(Name::read(message, 9), Err(WireError::Name));
        assert_eq!(Name::read(b"\xC0\x02\xC0\x00", 2), Err(WireError::Name));
    }

    #[test]
    fn a_suffix_begins_at_a_label() {
        let of = |text: &str| Name::parse(text).unwrap();
        assert!(of("a.Cluster.local").is_under(&of("cluster.local")));
        assert!(of("cluster.local").is_under(&of("cluster.local")));
        assert!(of("a.b").is_under(&Name::root()));
        assert!(!of("xcluster.local").is_under(&of("cluster.local")));
        // The last bytes of this label look like a name in wire form.
        assert!(!of(r"a\001b").is_under(&of("b")));
    }
}
