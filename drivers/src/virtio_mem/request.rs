//! Requests and answers, as they lie in memory. Calls nothing.

use core::fmt;

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 24;
/// Bytes of an answer.
pub const RESPONSE_BYTES: usize = 10;

/// Blocks of the device's size that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// Physical address of the first, a multiple of the block size.
    pub addr: u64,
    /// How many.
    pub count: u16,
}

/// What a driver can ask for (virtio 1.2, 5.15.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Make these blocks, all unplugged, memory.
    Plug(Blocks),
    /// Take these blocks, all plugged, away, and their content with them.
    Unplug(Blocks),
    /// Take everything away.
    UnplugAll,
    /// How are these blocks?
    State(Blocks),
}

impl Request {
    /// As the device reads it.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let none = Blocks { addr: 0, count: 0 };
        let (code, blocks) = match *self {
            Self::Plug(blocks) => (0u16, blocks),
            Self::Unplug(blocks) => (1, blocks),
            Self::UnplugAll => (2, none),
            Self::State(blocks) => (3, blocks),
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..2].copy_from_slice(&code.to_le_bytes());
        bytes[8..16].copy_from_slice(&blocks.addr.to_le_bytes());
        bytes[16..18].copy_from_slice(&blocks.count.to_le_bytes());
        bytes
    }

    /// The least number of bytes that its answer has.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        // Only the answer to a question about blocks goes on after its type.
        if matches!(self, Self::State(_)) { RESPONSE_BYTES } else { 2 }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, blocks) = match self {
            Self::Plug(blocks) => ("PLUG", blocks),
            Self::Unplug(blocks) => ("UNPLUG", blocks),
            Self::UnplugAll => return f.write_str("UNPLUG_ALL"),
            Self::State(blocks) => ("STATE", blocks),
        };
        write!(f, "{name} of {} blocks at {:#x}", blocks.count, blocks.addr)
    }
}

/// How blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// All are memory.
    Plugged,
    /// None is.
    Unplugged,
    /// Some are.
    Mixed,
}

/// What the device answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// Done; to a question about blocks, how they are.
    Ack(Option<BlockState>),
    /// Not done, and not to be repeated as it is: what is requested may have
    /// changed.
    Nack,
    /// Not now.
    Busy,
    /// The device thinks the request wrong.
    Error,
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ack(None) => "done",
            Self::Ack(Some(BlockState::Plugged)) => "they are plugged",
            Self::Ack(Some(BlockState::Unplugged)) => "they are unplugged",
            Self::Ack(Some(BlockState::Mixed)) => "some of them are plugged",
            Self::Nack => "refused (NACK)",
            Self::Busy => "the device is busy (BUSY)",
            Self::Error => "an invalid request, says the device (ERROR)",
        })
    }
}

/// An answer that the device must not give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadResponse {
    /// Fewer bytes than an answer to that request has.
    Short(usize),
    /// A type of answer that there is not.
    Type(u16),
    /// A state that blocks cannot be in.
    State(u16),
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(bytes) => write!(f, "an answer of {bytes} bytes"),
            Self::Type(ty) => write!(f, "an answer of unknown type {ty}"),
            Self::State(state) => write!(f, "an unknown state of blocks {state}"),
        }
    }
}

impl core::error::Error for BadResponse {}

impl Response {
    /// Decodes the `written` bytes that the device says it wrote of `bytes` in
    /// answer to `request`.
    ///
    /// # Errors
    /// It is no answer to that request.
    pub fn decode(
        request: &Request,
        bytes: &[u8; RESPONSE_BYTES],
        written: usize,
    ) -> Result<Self, BadResponse> {
        if written < 2 || written > bytes.len() {
            return Err(BadResponse::Short(written));
        }
        match u16::from_le_bytes([bytes[0], bytes[1]]) {
            0 if written < request.answer_bytes() => Err(BadResponse::Short(written)),
            0 if !matches!(request, Request::State(_)) => Ok(Self::Ack(None)),
            0 => match u16::from_le_bytes([bytes[8], bytes[9]]) {
                0 => Ok(Self::Ack(Some(BlockState::Plugged))),
                1 => Ok(Self::Ack(Some(BlockState::Unplugged))),
                2 => Ok(Self::Ack(Some(BlockState::Mixed))),
                state => Err(BadResponse::State(state)),
            },
            1 => Ok(Self::Nack),
            2 => Ok(Self::Busy),
            3 => Ok(Self::Error),
            ty => Err(BadResponse::Type(ty)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Blocks = Blocks { addr: 0x1_0020_0000, count: 0x102 };

    #[test]
    fn requests_lie_as_the_standard_says() {
        let mut plug = [0; REQUEST_BYTES];
        plug[10] = 0x20;
        plug[12] = 1;
        plug[16] = 2;
        plug[17] = 1;
        for (request, code) in
            [(Request::Plug(BLOCKS), 0), (Request::Unplug(BLOCKS), 1), (Request::State(BLOCKS), 3)]
        {
            plug[0] = code;
            assert_eq!(request.encode(), plug);
        }
        let mut all = [0; REQUEST_BYTES];
        all[0] = 2;
        assert_eq!(Request::UnplugAll.encode(), all);
    }

    #[test]
    fn answers_are_believed_only_if_they_are_some() {
        let (plug, state) = (Request::Plug(BLOCKS), Request::State(BLOCKS));
        let answer = |ty: u8, is: u8| [ty, 0, 9, 9, 9, 9, 9, 9, is, 0];
        for (request, bytes, written, expected) in [
            (plug, answer(0, 9), 10, Ok(Response::Ack(None))),
            (plug, answer(0, 9), 2, Ok(Response::Ack(None))),
            (plug, answer(1, 0), 2, Ok(Response::Nack)),
            (plug, answer(2, 0), 10, Ok(Response::Busy)),
            (plug, answer(3, 0), 10, Ok(Response::Error)),
            (plug, answer(4, 0), 10, Err(BadResponse::Type(4))),
            (plug, answer(0, 0), 0, Err(BadResponse::Short(0))),
            (plug, answer(0, 0), 1, Err(BadResponse::Short(1))),
            (plug, answer(0, 0), 11, Err(BadResponse::Short(11))),
            (state, answer(0, 0), 10, Ok(Response::Ack(Some(BlockState::Plugged)))),
            (state, answer(0, 1), 10, Ok(Response::Ack(Some(BlockState::Unplugged)))),
            (state, answer(0, 2), 10, Ok(Response::Ack(Some(BlockState::Mixed)))),
            (state, answer(0, 3), 10, Err(BadResponse::State(3))),
            (state, answer(0, 0), 8, Err(BadResponse::Short(8))),
            (state, answer(2, 3), 2, Ok(Response::Busy)),
        ] {
            assert_eq!(Response::decode(&request, &bytes, written), expected, "{bytes:?}");
        }
    }
}
