//! Pictures as a network's input, from bytes. A GPU normalises and mixes them by itself.

use burn::tensor::{Device, Tensor, TensorData};

use crate::gpu::host::Host;
use crate::gpu::operations;

/// Pictures in bytes, and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub struct Pictures<'a> {
    /// `[n, size, size, 3]`.
    pub bytes: &'a [u8],
    /// Height and width.
    pub size: usize,
    /// The value of each byte of each channel.
    pub values: &'a [[f32; 256]; 3],
    pub mixing: Mixing,
}

/// How picture `i` of `n` is mixed with picture `n - 1 - i`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixing {
    Alone,
    /// `own * values + partner * values of the partner`, but for the middle one of an odd number.
    Blend {
        own: f32,
        partner: f32,
    },
    /// The partner's pixels in the rows `top..bottom` and columns `left..right`.
    Patch {
        top: usize,
        bottom: usize,
        left: usize,
        right: usize,
    },
}

// === impl Pictures ===

impl Pictures<'_> {
    /// Pictures.
    pub fn samples(&self) -> usize {
        self.bytes.len() / (self.size * self.size * 3)
    }

    /// What a network sees, `[n, size, size, 3]`, where `device` is: the bytes go there.
    pub fn tensor(&self, device: &Device) -> Tensor<4> {
        let (words, tables) = (self.words(), self.tables());
        let shape = [self.samples(), self.size, self.size, 3];
        #[cfg(feature = "cuda")]
        {
            let tensor = |values: &[f32]| {
                let data = TensorData::new(values.to_vec(), [values.len()]);
                Tensor::<1>::from_data(data, device)
            };
            let inputs = [&tensor(&words), &tensor(&tables)];
            if let Some(values) = crate::gpu::cuda::run(inputs, |gpu, [words, tables]| {
                operations::pictures(gpu, self, words, tables)
            }) {
                return values.reshape(shape);
            }
        }
        let values = operations::pictures(&Host, self, &words, &tables);
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The bytes, four in each.
    fn words(&self) -> Vec<f32> {
        let word = |bytes: &[u8]| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            f32::from_bits(u32::from_le_bytes(word))
        };
        self.bytes.chunks(4).map(word).collect()
    }

    /// As the kernel wants them.
    fn tables(&self) -> Vec<f32> {
        let values = self.values.as_flattened();
        let shares: &[f32] = match &self.mixing {
            Mixing::Blend { own, partner } => &[*own, *partner],
            _ => &[],
        };
        let scaled = shares
            .iter()
            .flat_map(|share| values.iter().map(move |it| it * share));
        values.iter().copied().chain(scaled).collect()
    }
}
