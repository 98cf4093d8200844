//! What a kernel is, and where it runs.

/// One unit of work, done independently of every other one: it reads any of the inputs and writes values of the output
/// that no other unit touches.
pub trait Kernel {
    /// Shapes and switches, equal for all units.
    type Scalars: Copy;

    /// Runs the unit on the host.
    fn unit(unit: usize, inputs: &[&[f32]], scalars: Self::Scalars, out: &mut [f32]);

    /// Runs `units` units on a GPU.
    #[cfg(feature = "cuda")]
    fn launch(launch: super::cuda::Launch, scalars: Self::Scalars);
}

/// Something that runs kernels: a GPU, or the host in its place.
pub trait Machine {
    /// Contiguous `f32` values where the machine has them.
    type Values: Clone;

    /// Runs `units` units of `K`, which write all of `len` values.
    fn run<K: Kernel>(
        &self,
        inputs: &[&Self::Values],
        scalars: K::Scalars,
        units: usize,
        len: usize,
    ) -> Self::Values;

    /// The matrix product that `product` describes. `extra` is what its ending needs.
    fn multiply(
        &self,
        left: &Self::Values,
        right: &Self::Values,
        extra: Option<&Self::Values>,
        product: super::product::Product,
    ) -> Self::Values;
}

/// Declares the [`Kernel`] whose unit is a function `unit_of_it(unit, inputs, scalars, out)`:
/// `kernel!(Name, module, unit_of_it(inputs; scalars: types))`. Profiles name it by its module.
macro_rules! kernel {
    ($Name:ident, $module:ident, $unit:ident($($input:ident),*; $($scalar:ident: $kind:ident),*)) => {
        #[doc = concat!("The kernel whose unit is [`", stringify!($unit), "`](fn@", stringify!($unit), ").")]
        pub struct $Name;

        #[cfg(feature = "cuda")]
        #[allow(unsafe_code)]
        mod $module {
            use cubecl::prelude::*;

            use super::$unit as unit;

            #[cube(launch_unchecked, address_type = "dynamic")]
            pub fn kernel(
                $($input: &[f32],)*
                out: &mut [f32],
                $($scalar: $kind,)*
                units: usize,
            ) {
                if ABSOLUTE_POS < units {
                    unit(ABSOLUTE_POS, $($input,)* $($scalar,)* out);
                }
            }
        }

        impl $crate::gpu::kernel::Kernel for $Name {
            type Scalars = ($($kind,)*);

            fn unit(unit: usize, inputs: &[&[f32]], ($($scalar,)*): Self::Scalars, out: &mut [f32]) {
                let [$($input),*] = inputs else {
                    panic!("the kernel takes other inputs");
                };
                $unit(unit, $($input,)* $($scalar,)* out);
            }

            #[cfg(feature = "cuda")]
            #[allow(unsafe_code)]
            fn launch(launch: $crate::gpu::cuda::Launch, ($($scalar,)*): Self::Scalars) {
                let Ok([$($input),*]) = <[_; [$(stringify!($input)),*].len()]>::try_from(launch.inputs) else {
                    panic!("the kernel takes other inputs");
                };
                // SAFETY: the unit reads and writes inside its slices alone and ends: tests run it on the host, where
                // every access is checked, over shapes that fill no block.
                unsafe {
                    $module::kernel::launch_unchecked(
                        &launch.client,
                        launch.cubes,
                        launch.cube,
                        launch.addresses,
                        $($input,)*
                        launch.out,
                        $($scalar,)*
                        launch.units,
                    );
                }
            }
        }
    };
}
pub(crate) use kernel;
