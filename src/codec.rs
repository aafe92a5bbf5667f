//! Payload codecs: how arguments, results and values become bytes.

use std::{
    any::{Any, TypeId},
    cell::RefCell,
    io,
    ops::Deref,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, ErrorKind},
    spec::Payload,
};

/// A payload codec, chosen with `#[cluster_client(codec = Json)]`.
pub trait Codec {
    /// Its name. The ends compare it at registration, so that a mismatch is an error.
    const NAME: &'static str;
}

/// A [`Codec`] that encodes values of type `T`.
pub trait Encode<T: ?Sized>: Codec {
    /// Appends the encoded value to `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`] if the value has no form in this codec.
    fn encode(value: &T, out: &mut BytesMut) -> Result<(), Error>;
}

/// A [`Codec`] that decodes values of type `T`.
pub trait Decode<T>: Codec {
    /// The value of these bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if they are no value of this type.
    fn decode(bytes: Bytes) -> Result<T, Error>;
}

/// MessagePack with named fields, and byte strings as such. The default.
///
/// A `Vec<u8>` costs its bytes on the wire, but serde reads it byte by byte: some milliseconds a
/// MiB. Types that are read as a whole, as `serde_bytes::ByteBuf`, cost a copy; a `bytes::Bytes` that is
/// the whole value costs none from 64 KiB on.
#[derive(Debug, Clone, Copy)]
pub struct MessagePack;

/// JSON, for values that people or other languages read.
#[derive(Debug, Clone, Copy)]
pub struct Json;

/// Protobuf, where every argument, result and value is a protobuf message, or one of the types
/// that have a wrapper message: `String`, `Vec<u8>`, `bool`, numbers, `()`.
#[derive(Debug, Clone, Copy)]
pub struct Protobuf;

impl Codec for MessagePack {
    const NAME: &'static str = "messagepack";
}

impl<T: Serialize + ?Sized> Encode<T> for MessagePack {
    fn encode(value: &T, out: &mut BytesMut) -> Result<(), Error> {
        let mut serializer = rmp_serde::Serializer::new(Out(out))
            .with_struct_map()
            .with_bytes(rmp_serde::config::BytesMode::ForceAll);
        value.serialize(&mut serializer).map_err(|error| encode_error::<T>(&error))
    }
}

/// As `BytesMut::writer`, but small enough to be inlined.
struct Out<'a>(&'a mut BytesMut);

impl io::Write for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: DeserializeOwned + 'static> Decode<T> for MessagePack {
    fn decode(bytes: Bytes) -> Result<T, Error> {
        match take_byte_string(&bytes) {
            Some(value) => Ok(value),
            None => rmp_serde::from_slice(&bytes).map_err(|error| decode_error::<T>(&error)),
        }
    }
}

/// What is longer has its memory for itself, where shorter values lie in what was read with others.
const LARGE: usize = 64 << 10;

/// The markers before a byte string whose length takes one, two and four bytes.
const BIN_8: u8 = 0xc4;
const BIN_16: u8 = 0xc5;
const BIN_32: u8 = 0xc6;

/// A value that is one byte string, as calls often have it: a large one where it lies. What is not in
/// its shortest form is left to the codec.
fn take_byte_string<T: 'static>(bytes: &Bytes) -> Option<T> {
    let mut value = None::<T>;
    let slot = (&mut value as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
    let (len, string) = match **bytes {
        [BIN_8, len, ref string @ ..] => (usize::from(len), string),
        [BIN_16, a, b, ref string @ ..] => (usize::from(u16::from_be_bytes([a, b])), string),
        [BIN_32, a, b, c, d, ref string @ ..] => {
            (u32::from_be_bytes([a, b, c, d]) as usize, string)
        }
        _ => return None,
    };
    if len == string.len() {
        let is_large = bytes.len() > LARGE;
        let own = || Bytes::copy_from_slice(string);
        *slot = Some(if is_large { bytes.slice_ref(string) } else { own() });
    }
    value
}

impl Codec for Json {
    const NAME: &'static str = "json";
}

impl<T: Serialize + ?Sized> Encode<T> for Json {
    fn encode(value: &T, out: &mut BytesMut) -> Result<(), Error> {
        serde_json::to_writer(out.writer(), value).map_err(|error| encode_error::<T>(&error))
    }
}

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(bytes: Bytes) -> Result<T, Error> {
        serde_json::from_slice(&bytes).map_err(|error| decode_error::<T>(&error))
    }
}

impl Codec for Protobuf {
    const NAME: &'static str = "protobuf";
}

impl<T: prost::Message> Encode<T> for Protobuf {
    fn encode(value: &T, out: &mut BytesMut) -> Result<(), Error> {
        value.encode(out).map_err(|error| encode_error::<T>(&error))
    }
}

impl Encode<str> for Protobuf {
    fn encode(value: &str, out: &mut BytesMut) -> Result<(), Error> {
        Self::encode(&value.to_owned(), out)
    }
}

impl Encode<[u8]> for Protobuf {
    fn encode(value: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        Self::encode(&value.to_owned(), out)
    }
}

impl<T: prost::Message + Default> Decode<T> for Protobuf {
    fn decode(bytes: Bytes) -> Result<T, Error> {
        T::decode(bytes).map_err(|error| decode_error::<T>(&error))
    }
}

/// Room that an encoder starts with: enough for most arguments and results, so that the buffer need
/// not grow in small steps.
const ROOM: usize = 256;

/// What is kept and is not longer is copied to memory of its own length.
const SHORT: usize = 4 << 10;

/// Buffers of at most this size, and so many of them, are used again by a thread: 256 KiB.
const KEPT: (usize, usize) = (1 << 10, 256);

thread_local! {
    #[expect(clippy::vec_box, reason = "a buffer is small to move, with a call")]
    static SPARE: RefCell<Vec<Box<BytesMut>>> = const { RefCell::new(Vec::new()) };
}

/// Memory to encode into. It is used again once it is dropped, which costs a fraction of what an
/// allocator takes for memory that lives as long as a call.
#[derive(Debug)]
pub(crate) struct Buffer(
    /// Always there. A pointer is what a call moves best: from hand to hand, many times.
    Option<Box<BytesMut>>,
);

impl Buffer {
    fn new() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Self(Some(spare.unwrap_or_else(|| Box::new(BytesMut::with_capacity(ROOM)))))
    }

    fn bytes(&mut self) -> &mut BytesMut {
        self.0.get_or_insert_default()
    }

    /// For longer than a call.
    fn into_bytes(mut self) -> Bytes {
        if self.len() > SHORT {
            return std::mem::take(self.bytes()).freeze();
        }
        Bytes::copy_from_slice(&self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(mut bytes) = self.0.take() else { return };
        if bytes.capacity() > KEPT.0 {
            return;
        }
        bytes.clear();
        // At the end of the thread there is nothing to keep it in.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT.1 {
                spare.push(bytes);
            }
        });
    }
}

/// What was encoded.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// For as long as a call.
    Short(Buffer),
    /// For longer, or because it is long.
    Own(Box<Bytes>),
}

impl Encoded {
    /// For longer than a call; long ones are not copied.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Short(buffer) => Bytes::copy_from_slice(buffer),
            Self::Own(bytes) => Bytes::clone(bytes),
        }
    }

    /// As [`Encoded::to_bytes`].
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Short(buffer) => buffer.into_bytes(),
            Self::Own(bytes) => *bytes,
        }
    }
}

impl Deref for Encoded {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(buffer) => buffer,
            Self::Own(bytes) => bytes,
        }
    }
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        self.to_bytes().into()
    }
}

impl From<Buffer> for Encoded {
    #[inline]
    fn from(buffer: Buffer) -> Self {
        if buffer.len() <= KEPT.0 { Self::Short(buffer) } else { buffer.into_bytes().into() }
    }
}

impl From<Bytes> for Encoded {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Box::new(bytes))
    }
}

/// One value, encoded.
pub(crate) fn encode_value<C: Encode<T>, T: ?Sized>(value: &T) -> Result<Bytes, Error> {
    let mut out = Buffer::new();
    C::encode(value, out.bytes())?;
    Ok(out.into_bytes())
}

/// The result of a call, encoded.
pub(crate) fn encode_result<C, T>(value: &T) -> Result<Payload, Error>
where
    C: Encode<T> + 'static,
    T: 'static,
{
    if let Some(payload) = give_byte_string::<C, T>(value) {
        return Ok(payload);
    }
    let mut out = Buffer::new();
    C::encode(value, out.bytes())?;
    Ok(Payload::from(Encoded::from(out)))
}

/// A value that is one byte string, as results often are: a short one without the codec's general
/// machinery, a large one without a copy.
fn give_byte_string<C: 'static, T: 'static>(value: &T) -> Option<Payload> {
    let bytes = (value as &dyn Any).downcast_ref::<Bytes>()?;
    if TypeId::of::<C>() != TypeId::of::<MessagePack>() {
        return None;
    }
    if let Ok(len) = u8::try_from(bytes.len()) {
        let mut out = Buffer::new();
        out.bytes().extend_from_slice(&[BIN_8, len]);
        out.bytes().extend_from_slice(bytes);
        return Some(Payload::from(Encoded::from(out)));
    }
    let len = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() > LARGE)?;
    let head = [&[BIN_32], &len.to_be_bytes()[..]].concat();
    Some(Payload::of_pieces(head.into(), bytes.clone()))
}

/// Writes the arguments of a call: each with its length before it.
#[derive(Debug)]
pub struct ArgsWriter {
    out: Buffer,
    /// The first argument that could not be encoded.
    failed: Option<Error>,
}

impl ArgsWriter {
    /// No argument yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "only expanded code makes one")]
    pub fn new() -> Self {
        Self { out: Buffer::new(), failed: None }
    }

    /// The next argument. A failure is told at the end.
    #[must_use]
    pub fn arg<C: Encode<T>, T: ?Sized>(mut self, value: &T) -> Self {
        if self.failed.is_none() {
            self.failed = self.put::<C, T>(value).err();
        }
        self
    }

    /// The bytes of all arguments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`] if one has no form in this codec.
    pub fn finish(self) -> Result<Bytes, Error> {
        Ok(self.encoded()?.into_bytes())
    }

    /// As [`ArgsWriter::finish`], for a call.
    #[inline]
    pub(crate) fn encoded(self) -> Result<Encoded, Error> {
        match self.failed {
            None => Ok(self.out.into()),
            Some(error) => Err(error),
        }
    }

    fn put<C: Encode<T>, T: ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let out = self.out.bytes();
        let start = out.len();
        out.put_u32(0);
        C::encode(value, out)?;
        let len = u32::try_from(out.len() - start - 4)
            .map_err(|_| Error::new(ErrorKind::TooLarge, "an argument is larger than 4 GiB"))?;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

/// Reads the arguments of a call, in their order.
#[derive(Debug)]
pub struct ArgsReader {
    rest: Bytes,
    /// How many were read.
    read: usize,
}

impl ArgsReader {
    /// The arguments of these bytes.
    #[must_use]
    pub fn new(args: Bytes) -> Self {
        Self { rest: args, read: 0 }
    }

    /// The next argument.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MethodMismatch`] if there is none, or it is no value of this type.
    pub fn arg<C: Decode<T>, T>(&mut self) -> Result<T, Error> {
        self.read += 1;
        let position = self.read;
        if self.rest.len() < 4 {
            return Err(mismatch(format!("argument {position} is missing")));
        }
        let len = self.rest.get_u32() as usize;
        if len > self.rest.len() {
            return Err(mismatch(format!("argument {position} is cut short")));
        }
        C::decode(self.rest.split_to(len))
            .map_err(|error| mismatch(format!("argument {position}: {}", error.message())))
    }

    /// Ends the arguments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MethodMismatch`] if there are more.
    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(mismatch("there are more arguments than the method takes".to_owned()))
    }
}

fn mismatch(message: String) -> Error {
    Error::new(
        ErrorKind::MethodMismatch,
        format!(
            "the leader can't read the arguments: {message}; build both ends from the same version \
             of the client"
        ),
    )
}

fn encode_error<T: ?Sized>(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Encode, format!("{} can't be encoded: {error}", type_name::<T>()))
}

fn decode_error<T>(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Decode, format!("not a valid {}: {error}", type_name::<T>()))
}

fn type_name<T: ?Sized>() -> &'static str {
    std::any::type_name::<T>()
}

#[cfg(test)]
mod tests;
