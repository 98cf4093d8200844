//! The numbers that can be summed and sent.

use std::ops::AddAssign;

#[cfg(target_endian = "big")]
compile_error!("numbers are sent as they lie in memory, which must be little-endian");

/// A number that can be summed and sent.
pub trait Element: bytemuck::Pod + Send + Sync + Default + AddAssign + PartialEq + 'static {
    /// Bytes of one element.
    const SIZE: usize = size_of::<Self>();

    /// Appends the bytes of `values`.
    fn write(values: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(bytemuck::cast_slice(values));
    }

    /// Reads as many elements as `values` holds; `bytes` must be exactly that long.
    fn read(bytes: &[u8], values: &mut [Self]) {
        bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
    }
}

impl Element for f32 {}
impl Element for f64 {}

/// `left += right`, element by element: the one operation of the tree.
pub(crate) fn add<T: Element>(left: &mut [T], right: &[T]) {
    debug_assert_eq!(left.len(), right.len());
    for (left, right) in left.iter_mut().zip(right) {
        *left += *right;
    }
}
