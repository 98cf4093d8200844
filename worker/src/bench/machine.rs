//! What a core of this machine can do at most, measured.

use std::hint::black_box;
use std::time::Instant;

use perennial_kernels::cpu::matmul::{Matrix, Weight, affine};
use perennial_plan::spec::Precision;

use crate::error::WorkerError;
use crate::numerics::operands;
use crate::slots::Cores;

/// Rows and columns of the matrices: a product of the best shape.
const SIDE: usize = 768;
/// Numbers that are copied: far more than a cache holds.
const COPIED: usize = 1 << 25;
const ATTEMPTS: usize = 5;

/// The most that each of the cores does while all of them are at work.
#[derive(Debug, Clone, Copy)]
pub struct CorePeak {
    /// Floating-point operations a second, in a matrix product.
    pub flops: f64,
    /// Bytes a second, read and written, in a copy.
    pub bytes: f64,
}

// === impl CorePeak ===

impl CorePeak {
    /// With products in this precision.
    pub fn measure(threads: usize, precision: Precision) -> Result<Self, WorkerError> {
        let cores = Cores::new(threads)?;
        let all: Vec<()> = vec![(); threads];
        let measured = cores.for_all(all, |()| {
            let matrix = vec![0.5f32; SIDE * SIDE];
            let mut square = vec![0.0f32; SIDE * SIDE];
            let mut copy = vec![0.0f32; COPIED];
            let source = vec![1.0f32; COPIED];
            let best = |work: &mut dyn FnMut()| {
                let times = (0..ATTEMPTS).map(|_| {
                    let began = Instant::now();
                    work();
                    began.elapsed().as_secs_f64()
                });
                times.fold(f64::INFINITY, f64::min)
            };
            let product_seconds = best(&mut || {
                let matrix = Matrix::new(&matrix, SIDE, SIDE);
                let weight = Weight::of(matrix, operands(precision));
                affine(matrix, &weight, None, &mut square);
                black_box(&square);
            });
            let copy_seconds = best(&mut || {
                copy.copy_from_slice(&source);
                black_box(&copy);
            });
            Self {
                flops: 2.0 * (SIDE as f64).powi(3) / product_seconds,
                bytes: 8.0 * COPIED as f64 / copy_seconds,
            }
        });
        let slowest = |of: fn(&Self) -> f64| measured.iter().map(of).fold(f64::INFINITY, f64::min);
        Ok(Self {
            flops: slowest(|peak| peak.flops),
            bytes: slowest(|peak| peak.bytes),
        })
    }
}
