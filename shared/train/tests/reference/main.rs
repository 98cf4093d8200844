//! Against golden numbers of PyTorch and timm. `data/` has a part of them; the whole set is taken where it lies
//! beside the checkout.

mod fixtures;
mod optimizer;
mod schedule;
mod step;
