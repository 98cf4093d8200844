//! The pictures of a batch as a network's input.

use burn::tensor::{Device, Tensor, TensorData};
use perennial_data::mix::MixPlan;
use perennial_data::{Images, SlotBatch};
use perennial_kernels::pictures::{Mixing, Pictures};
use perennial_train::SlotInput;

/// A slot whose pictures are `size` pixels high and wide, on `device`.
pub(crate) fn input(batch: SlotBatch, size: usize, device: &Device) -> SlotInput {
    SlotInput {
        images: tensor(batch.images, size, device),
        targets: batch.targets,
        labels: batch.labels,
    }
}

/// The pictures `[n, size, size, 3]` on `device`, which normalises and mixes what is raw.
pub(crate) fn tensor(images: Images, size: usize, device: &Device) -> Tensor<4> {
    match images {
        Images::Ready(values) => {
            let samples = values.len() / (size * size * 3);
            let data = TensorData::new(values, [samples, size, size, 3]);
            Tensor::from_data(data, device)
        }
        Images::Raw(raw) => {
            let pictures = Pictures {
                bytes: &raw.bytes,
                size,
                values: &raw.values,
                mixing: raw.plan.as_ref().map_or(Mixing::Alone, mixing),
            };
            pictures.tensor(device)
        }
    }
}

fn mixing(plan: &MixPlan) -> Mixing {
    match &plan.patch {
        None => {
            let [own, partner] = plan.shares();
            Mixing::Blend { own, partner }
        }
        Some(patch) => Mixing::Patch {
            top: patch.top,
            bottom: patch.bottom,
            left: patch.left,
            right: patch.right,
        },
    }
}

#[cfg(test)]
mod tests {
    use perennial_data::{Pipeline, synth};
    use perennial_plan::Spec;

    use super::*;

    const SIZE: usize = 24;

    fn bits(images: Images) -> Vec<u32> {
        let values = tensor(images, SIZE, &Device::flex()).into_data();
        let values = values.try_into_vec::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn what_is_left_raw_becomes_the_bits_that_the_pipeline_computes() {
        let dir = tempfile::tempdir().unwrap();
        synth(dir.path(), 2, 8, 32, 7).unwrap();
        let mut spec = Spec::default();
        spec.data.dir = dir.path().to_str().unwrap().to_string();
        spec.data.image_size = SIZE as u32;
        spec.data.mean = [0.485, 0.456, 0.406];
        spec.data.std = [0.229, 0.224, 0.225];
        spec.mix.mixup_alpha = 0.8;
        spec.mix.cutmix_alpha = 1.0;
        spec.mix.prob = 0.8;
        let (pipeline, _) = Pipeline::open(&spec).unwrap();
        let raw = Pipeline::new(pipeline.data().clone(), &spec).raw(true);

        let mut drawn = [0; 3];
        for slot in 0..40u32 {
            let samples: Vec<u32> = (0..1 + slot % 6).collect();
            let left = raw.train_slot(0, 3, slot, &samples).unwrap();
            let ready = pipeline.train_slot(0, 3, slot, &samples).unwrap();
            assert_eq!(
                (&left.targets, &left.labels),
                (&ready.targets, &ready.labels)
            );
            let Images::Raw(images) = &left.images else {
                panic!("the pictures are not raw");
            };
            let which = images.plan.as_ref();
            drawn[which.map_or(0, |plan| 1 + usize::from(plan.patch.is_some()))] += 1;
            assert_eq!(bits(left.images), bits(ready.images), "slot {slot}");
        }
        assert!(drawn.iter().all(|count| *count > 2), "{drawn:?}");

        let side = perennial_data::Side::Val;
        let left = raw.eval_batch(side, &[2, 0]).unwrap();
        let ready = pipeline.eval_batch(side, &[2, 0]).unwrap();
        assert_eq!(bits(left.images), bits(ready.images));
    }
}
