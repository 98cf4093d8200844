//! CAS-ViT: Zhang et al., "CAS-ViT: Convolutional additive self-attention vision transformers for
//! efficient mobile applications", arXiv 2408.03703. Parameters carry the names of the official
//! implementation. Activations are `[batch, height, width, channels]`.

use perennial_kernels::Activation;

use crate::engine::Engine;
use crate::layers::{BatchNorm, Depthwise, Downsample, Linear, Pointwise, PointwiseParts};
use crate::table::Table;

/// Blocks and channels of the four stages.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub layers: [usize; 4],
    pub dims: [usize; 4],
}

/// The network.
pub struct CasVit {
    stem: [Downsample; 2],
    stages: [Vec<AdditiveBlock>; 4],
    /// Between the stages.
    downsamples: [Downsample; 3],
    norm: BatchNorm,
    heads: Vec<Linear>,
}

/// Three residual steps: local integration, additive token mixing, feed-forward.
struct AdditiveBlock {
    local: LocalIntegration,
    norm1: BatchNorm,
    mixer: AdditiveTokenMixer,
    norm2: BatchNorm,
    fc1: Pointwise,
    fc2: Pointwise,
    drop_path: f32,
    /// The number of this block in the network; its two dropped branches are `2 * index` and the next.
    index: u64,
}

/// Pointwise, depthwise, pointwise.
struct LocalIntegration {
    expand: Pointwise,
    norm: BatchNorm,
    depthwise: Depthwise,
    project: Pointwise,
}

/// `proj(dwc(context(q) + context(k)) * v)`: similarity by addition, cost linear in the tokens.
struct AdditiveTokenMixer {
    qkv: PointwiseParts<3>,
    query: Context,
    key: Context,
    dwc: Depthwise,
    proj: Depthwise,
}

/// A gate a pixel, then a gate a channel.
struct Context {
    depthwise: Depthwise,
    norm: BatchNorm,
    spatial: Pointwise,
    channel: Pointwise,
}

// === impl Variant ===

impl Variant {
    /// `casvit_xs`, `casvit_s`, `casvit_m` or `casvit_t`.
    pub fn named(name: &str) -> Option<Self> {
        let (layers, dims) = match name {
            "casvit_xs" => ([2, 2, 4, 2], [48, 56, 112, 220]),
            "casvit_s" => ([3, 3, 6, 3], [48, 64, 128, 256]),
            "casvit_m" => ([3, 3, 6, 3], [64, 96, 192, 384]),
            "casvit_t" => ([3, 3, 6, 3], [96, 128, 256, 512]),
            _ => return None,
        };
        Some(Self { layers, dims })
    }
}

// === impl CasVit ===

impl CasVit {
    pub fn new(
        table: &mut Table,
        variant: Variant,
        classes: usize,
        drop_path: f32,
        distillation: bool,
    ) -> Self {
        let Variant { layers, dims } = variant;
        let widths = [3, dims[0] / 2, dims[0]];
        let stem = [0, 1].map(|at| {
            let (conv, norm) = (3 * at, 3 * at + 1);
            let names = [conv, norm].map(|number| format!("patch_embed.{number}"));
            let names = names.each_ref().map(String::as_str);
            let widths = [widths[at], widths[at + 1]];
            Downsample::new(table, names, widths, Activation::Relu)
        });
        let downsamples = [1, 3, 5].map(|at| {
            let names = ["proj", "norm"].map(|name| format!("network.{at}.{name}"));
            let names = names.each_ref().map(String::as_str);
            let widths = [dims[at / 2], dims[at / 2 + 1]];
            Downsample::new(table, names, widths, Activation::None)
        });
        let blocks: usize = layers.iter().sum();
        let mut index = 0;
        let stages = std::array::from_fn(|stage| {
            (0..layers[stage])
                .map(|block| {
                    let name = format!("network.{}.{block}", 2 * stage);
                    let rate = drop_path * index as f32 / (blocks - 1) as f32;
                    let block = AdditiveBlock::new(table, &name, dims[stage], rate, index);
                    index += 1;
                    block
                })
                .collect()
        });
        let norm = BatchNorm::new(table, "norm", dims[3], Activation::None);
        let names: &[&str] = if distillation {
            &["head", "dist_head"]
        } else {
            &["head"]
        };
        let heads: Vec<Linear> = names
            .iter()
            .map(|name| Linear::new(table, name, dims[3], classes))
            .collect();
        // The mean over pixels between the two changes nothing.
        for head in &heads {
            norm.fold_into_next(table, head.parameters());
        }
        table.lay_out();
        Self {
            stem,
            stages,
            downsamples,
            norm,
            heads,
        }
    }

    /// `images`: `[batch, height, width, 3]`; a `[batch, classes]` from each head.
    pub(crate) fn forward<E: Engine>(&self, images: E::Map, engine: &E) -> Vec<E::Rows> {
        let mut x = images;
        for layer in &self.stem {
            x = layer.forward(x, engine);
        }
        for (stage, blocks) in self.stages.iter().enumerate() {
            if stage > 0 {
                x = self.downsamples[stage - 1].forward(x, engine);
            }
            for block in blocks {
                x = block.forward(x, engine);
            }
        }
        // The normalisation comes before the pooling: in training its statistics are over pixels.
        let pooled = engine.pooled(self.norm.forward(x, engine));
        self.heads
            .iter()
            .map(|head| head.forward(pooled.clone(), engine))
            .collect()
    }
}

// === impl AdditiveBlock ===

impl AdditiveBlock {
    fn new(table: &mut Table, name: &str, dim: usize, drop_path: f32, index: u64) -> Self {
        let local = LocalIntegration::new(table, &format!("{name}.local_perception.network"), dim);
        let norm1 = BatchNorm::new(table, &format!("{name}.norm1"), dim, Activation::None);
        let mixer = AdditiveTokenMixer::new(table, &format!("{name}.attn"), dim);
        norm1.fold_into_next(table, mixer.qkv.parameters());
        let norm2 = BatchNorm::new(table, &format!("{name}.norm2"), dim, Activation::None);
        let fc1 = Pointwise::new(table, &format!("{name}.mlp.fc1"), dim, 4 * dim, true);
        norm2.fold_into_next(table, fc1.parameters());
        Self {
            local,
            norm1,
            mixer,
            norm2,
            fc1,
            fc2: Pointwise::new(table, &format!("{name}.mlp.fc2"), 4 * dim, dim, true),
            drop_path,
            index,
        }
    }

    fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        let x = x.clone() + self.local.forward(x, engine);
        let mixed = self
            .mixer
            .forward(self.norm1.forward(x.clone(), engine), engine);
        let x = x + engine.drop_path(mixed, self.drop_path, 2 * self.index);
        let layers = [&self.fc1, &self.fc2];
        engine.feed_forward(x, &self.norm2, layers, self.drop_path, 2 * self.index + 1)
    }
}

// === impl LocalIntegration ===

impl LocalIntegration {
    fn new(table: &mut Table, name: &str, dim: usize) -> Self {
        let expand = Pointwise::new(table, &format!("{name}.0"), dim, dim, true);
        let norm = BatchNorm::new(table, &format!("{name}.1"), dim, Activation::None);
        norm.fold_into_previous(table, expand.parameters());
        Self {
            expand,
            norm,
            depthwise: Depthwise::new(table, &format!("{name}.2"), dim),
            project: Pointwise::new(table, &format!("{name}.4"), dim, dim, true),
        }
    }

    fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        let x = self.norm.forward(self.expand.forward(x, engine), engine);
        let x = self.depthwise.forward(x, engine);
        self.project.forward_activated(x, engine)
    }
}

// === impl AdditiveTokenMixer ===

impl AdditiveTokenMixer {
    fn new(table: &mut Table, name: &str, dim: usize) -> Self {
        Self {
            qkv: PointwiseParts::new(table, &format!("{name}.qkv"), dim, dim),
            query: Context::new(table, &format!("{name}.oper_q"), dim),
            key: Context::new(table, &format!("{name}.oper_k"), dim),
            dwc: Depthwise::new(table, &format!("{name}.dwc"), dim),
            proj: Depthwise::new(table, &format!("{name}.proj"), dim),
        }
    }

    fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        let part = |index: usize| self.qkv.forward(x.clone(), index, engine);
        let context = self.query.forward(part(0), engine) + self.key.forward(part(1), engine);
        self.proj
            .forward(self.dwc.forward(context, engine) * part(2), engine)
    }
}

// === impl Context ===

impl Context {
    fn new(table: &mut Table, name: &str, dim: usize) -> Self {
        let depthwise =
            Depthwise::new(table, &format!("{name}.0.block.0"), dim).followed_by(Activation::Relu);
        let norm = BatchNorm::new(table, &format!("{name}.0.block.1"), dim, Activation::Relu);
        norm.fold_into_previous(table, depthwise.parameters());
        Self {
            depthwise,
            norm,
            spatial: Pointwise::new(table, &format!("{name}.0.block.3"), dim, 1, false),
            channel: Pointwise::new(table, &format!("{name}.1.block.1"), dim, dim, false),
        }
    }

    fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        let hidden = self.depthwise.forward(x.clone(), engine);
        engine.context(x, hidden, &self.norm, &self.spatial, &self.channel)
    }
}
