//! Curves without a report: for a terminal, as an image, for programs.

#[allow(dead_code)]
mod common;

use perennial_report::{Curves, EpochRecord};

fn records(count: u32) -> Vec<EpochRecord> {
    (1..=count).map(common::record).collect()
}

fn curves(epochs: &[EpochRecord]) -> Curves<'_> {
    Curves {
        job: "meadow <script>",
        epochs,
        k: 3,
    }
}

#[test]
fn a_terminal_gets_a_chart_for_each_thing_that_is_known() {
    for count in [1, 2, 3, 90, 5000] {
        let mut records = records(count);
        let text = curves(&records).to_text();
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        for title in ["\nLoss", "\nTop-1", "\nTop-3", "\nLearning rate"] {
            assert_eq!(text.matches(title).count(), 1, "{text}");
        }
        let axis = text
            .lines()
            .filter(|line| line.trim_start().starts_with("epoch  1"));
        assert!(axis.clone().count() == 4, "{text}");
        assert!(
            axis.clone().all(|line| line.ends_with(&count.to_string())),
            "{text}"
        );

        for record in &mut records {
            (record.ema_loss, record.ema_top1, record.ema_top5) = (None, None, None);
            (record.val_loss, record.val_top5) = (f64::NAN, f64::NAN);
        }
        let text = curves(&records).to_text();
        assert!(!text.contains("EMA") && !text.contains("Top-3"), "{text}");
    }
}

/// The marks of a chart's only line, by column: from which row on, counted from above.
fn heights(text: &str, title: &str) -> Vec<usize> {
    let chart = text.split(title).nth(1).unwrap();
    let rows: Vec<Vec<char>> = (chart.lines().skip(1))
        .take_while(|line| line.contains('|'))
        .map(|line| line.split_once('|').unwrap().1.chars().collect())
        .collect();
    (0..64)
        .map(|column| {
            rows.iter()
                .position(|row| row.get(column) == Some(&'*'))
                .unwrap()
        })
        .collect()
}

#[test]
fn a_line_goes_from_its_first_value_to_its_last() {
    let mut records = records(5);
    for (record, rate) in records.iter_mut().zip([0.0, 0.25, 0.5, 0.75, 1.0]) {
        record.learning_rate = rate;
    }
    let rising = heights(&curves(&records).to_text(), "\nLearning rate");
    assert_eq!((rising[0], rising[63]), (10, 0));
    assert!(rising.is_sorted_by(|a, b| a >= b), "{rising:?}");
}

#[test]
fn an_image_is_whole_and_escaped() {
    for count in [1, 3, 500] {
        let records = records(count);
        let image = curves(&records).to_svg();
        let elements = common::elements(&image);
        assert_eq!(elements[0], "svg");
        assert!(!elements.contains(&"script".to_string()));
        assert_eq!(image.matches("class=\"title\"").count(), 4);
        assert!(image.contains("meadow &lt;script&gt;"), "{image}");
    }
    assert_eq!(common::elements(&curves(&[]).to_svg())[0], "svg");
}

#[test]
fn programs_get_a_line_for_each_epoch() {
    let mut records = records(3);
    records[1].val_loss = f64::NAN;
    let lines = curves(&records).to_json_lines();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for (line, record) in lines.iter().zip(&records) {
        assert_eq!(line["event"], "epoch");
        assert_eq!(line["epoch"], record.epoch);
        assert_eq!(line["train_loss"], record.train_loss);
    }
    assert_eq!(lines[1]["val_loss"], serde_json::Value::Null);
}

/// The colours of a picture, row by row, and its width and height.
fn decoded(png: &[u8]) -> (Vec<[u8; 3]>, usize, usize) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png))
        .read_info()
        .unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgba);
    let pixels = bytes[..info.buffer_size()].chunks_exact(4);
    let colours = pixels.map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    (colours, info.width as usize, info.height as usize)
}

#[test]
fn a_png_has_lines_and_words_on_paper_whatever_fonts_a_machine_has() {
    let records = records(12);
    let (colours, width, height) = decoded(&curves(&records).to_png().unwrap());
    assert_eq!((width, height), (2008, 1432));
    let paper = [0xfd, 0xfd, 0xfb];
    let corners = [0, width - 1, width * (height - 1), width * height - 1];
    assert!(corners.iter().all(|at| colours[*at] == paper));
    let count = |colour: [u8; 3]| colours.iter().filter(|it| **it == colour).count();
    for (line, colour) in [
        ("training", [0x8b, 0x93, 0x8f]),
        ("validation", [0x35, 0x66, 0xa8]),
        ("EMA", [0x1f, 0x7a, 0x5a]),
        ("learning rate", [0x8a, 0x5a, 0x1c]),
    ] {
        assert!(count(colour) > 500, "{line}: {}", count(colour));
    }
    // The head of the picture is the job's name: other words are other pixels.
    let head = &colours[..width * 72];
    let ink = [0x1d, 0x24, 0x21];
    assert!(head.iter().filter(|it| **it == ink).count() > 300);
    let other = Curves {
        job: "meadow",
        ..curves(&records)
    };
    let (colours, ..) = decoded(&other.to_png().unwrap());
    assert_ne!(head, &colours[..width * 72]);
}
