//! What the two sides of a move tell each other beside the copy: short, and good to be sent as text.

use std::fmt;
use std::str::FromStr;

use super::MoveError;

/// The id of a move, drawn when it begins. 32 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId(pub(super) [u8; 16]);

/// Says that the destination has a copy, durably. 96 hexadecimal digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalReceipt {
    pub(super) id: MoveId,
    /// Of the stream that the copy came as.
    pub(super) digest: [u8; 32],
}

/// Says that the source never serves the content again. 96 hexadecimal digits as text.
///
/// ```
/// use lapidary::{DepartureProof, MoveError};
/// let text = "07".repeat(48);
/// let proof: DepartureProof = text.parse()?;
/// assert_eq!(proof.to_string(), text);
/// assert!("07".parse::<DepartureProof>().is_err());
/// # Ok::<(), MoveError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepartureProof {
    pub(super) id: MoveId,
    pub(super) digest: [u8; 32],
}

impl ArrivalReceipt {
    /// Of which move.
    #[must_use]
    pub fn id(&self) -> MoveId {
        self.id
    }
}

impl DepartureProof {
    /// Of which move.
    #[must_use]
    pub fn id(&self) -> MoveId {
        self.id
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MoveId({self})")
    }
}

impl FromStr for MoveId {
    type Err = MoveError;

    fn from_str(text: &str) -> Result<Self, MoveError> {
        read_hex(text).map(Self)
    }
}

impl fmt::Display for ArrivalReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.id.0, f)?;
        write_hex(&self.digest, f)
    }
}

impl FromStr for ArrivalReceipt {
    type Err = MoveError;

    fn from_str(text: &str) -> Result<Self, MoveError> {
        let (id, digest) = read_parts(text)?;
        Ok(Self { id, digest })
    }
}

impl fmt::Display for DepartureProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.id.0, f)?;
        write_hex(&self.digest, f)
    }
}

impl FromStr for DepartureProof {
    type Err = MoveError;

    fn from_str(text: &str) -> Result<Self, MoveError> {
        let (id, digest) = read_parts(text)?;
        Ok(Self { id, digest })
    }
}

fn read_parts(text: &str) -> Result<(MoveId, [u8; 32]), MoveError> {
    let (id, digest) = text.split_at_checked(32).ok_or(MoveError::Token)?;
    Ok((id.parse()?, read_hex(digest)?))
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], MoveError> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != N * 2 || !text.bytes().all(is_digit) {
        return Err(MoveError::Token);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    Ok(bytes)
}
