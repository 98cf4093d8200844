//! The numbers that can be summed and sent.

use std::ops::AddAssign;

/// A number that can be summed and sent. Bytes are little-endian on every machine.
pub trait Element: Copy + Send + Sync + Default + AddAssign + PartialEq + 'static {
    /// Bytes of one element.
    const SIZE: usize;

    /// Appends the bytes of `values`.
    fn write(values: &[Self], bytes: &mut Vec<u8>);

    /// Reads as many elements as `values` holds; `bytes` must be exactly that long.
    fn read(bytes: &[u8], values: &mut [Self]);
}

macro_rules! element {
    ($number:ty) => {
        impl Element for $number {
            const SIZE: usize = size_of::<$number>();

            fn write(values: &[Self], bytes: &mut Vec<u8>) {
                let start = bytes.len();
                bytes.resize(start + values.len() * Self::SIZE, 0);
                let (places, _) = bytes[start..].as_chunks_mut::<{ size_of::<$number>() }>();
                for (place, value) in places.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
            }

            fn read(bytes: &[u8], values: &mut [Self]) {
                debug_assert_eq!(bytes.len(), values.len() * Self::SIZE);
                let (places, _) = bytes.as_chunks::<{ size_of::<$number>() }>();
                for (value, place) in values.iter_mut().zip(places) {
                    *value = Self::from_le_bytes(*place);
                }
            }
        }
    };
}

element!(f32);
element!(f64);

/// `left += right`, element by element: the one operation of the tree.
pub(crate) fn add<T: Element>(left: &mut [T], right: &[T]) {
    debug_assert_eq!(left.len(), right.len());
    for (left, right) in left.iter_mut().zip(right) {
        *left += *right;
    }
}
