//! Where each tensor lies in the flat parameters.

use std::ops::Range;

/// One tensor of the flat parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub range: Range<usize>,
    /// Whether weight decay applies to it.
    pub decay: bool,
}

// === impl Segment ===

impl Segment {
    /// The table of tensors laid one after another in the given order. Weight decay spares biases and
    /// the weights of norms: what has at most one dimension or a name that ends in `.bias`.
    pub fn table<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<Segment> {
        let mut start = 0;
        tensors
            .into_iter()
            .map(|(name, shape)| {
                let end = start + shape.iter().product::<usize>();
                let range = start..end;
                start = end;
                Segment {
                    range,
                    decay: shape.len() > 1 && !name.ends_with(".bias"),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_decay_spares_biases_and_norms() {
        let table = Segment::table([
            ("conv.weight", &[4, 3, 1, 1][..]),
            ("conv.bias", &[4]),
            ("norm.weight", &[4]),
            ("odd.bias", &[1, 4]),
            ("scale", &[]),
        ]);
        let decay: Vec<bool> = table.iter().map(|segment| segment.decay).collect();
        assert_eq!(decay, [true, false, false, false, false]);
        let ranges: Vec<_> = table.iter().map(|segment| segment.range.clone()).collect();
        assert_eq!(ranges, [0..12, 12..16, 16..20, 20..24, 24..25]);
    }
}
