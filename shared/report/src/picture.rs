//! From an SVG of ours to PNG.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};

use crate::ReportError;

/// Of the one font there is: a picture is the same on a machine without any.
const FAMILY: &str = "DejaVu Sans";
/// Pixels for each unit of the drawing, so that small text can be read.
const SCALE: f32 = 2.0;

/// # Errors
/// When the drawing is not a whole one, or too large for memory.
pub fn png(svg: &str) -> Result<Vec<u8>, ReportError> {
    let failed = |reason: String| ReportError::Picture { reason };
    let mut fonts = Database::new();
    fonts.load_font_source(Source::Binary(Arc::new(dejavu::sans::regular())));
    fonts.set_sans_serif_family(FAMILY);
    let options = Options {
        font_family: FAMILY.to_string(),
        fontdb: Arc::new(fonts),
        ..Options::default()
    };
    let drawing = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = drawing.size().to_int_size().scale_by(SCALE);
    let pixels = size.and_then(|size| Pixmap::new(size.width(), size.height()));
    let mut pixels = pixels.ok_or_else(|| failed("it has no size".to_string()))?;
    let transform = Transform::from_scale(SCALE, SCALE);
    resvg::render(&drawing, transform, &mut pixels.as_mut());
    let encoded = pixels.encode_png();
    encoded.map_err(|error| failed(error.to_string()))
}
