//! The HTML page and the text: complete, closed, escaped, whatever the run was like.

mod common;

use perennial_report::{Evaluation, Report};

const SCRIPT: &str = "<script>alert(1)</script>";

fn count(html: &str, element: &str) -> usize {
    common::elements(html)
        .iter()
        .filter(|name| *name == element)
        .count()
}

fn with_classes(count: usize) -> Report {
    let mut report = common::report();
    report.data.classes = (0..count).map(|class| format!("class {class}")).collect();
    let mut confusion = vec![vec![0; count]; count];
    for (class, row) in confusion.iter_mut().enumerate() {
        row[class] = 9;
        row[(class + 1) % count] += 1;
    }
    report.raw.confusion = confusion;
    report.raw.samples = 10 * count as u64;
    report.ema = None;
    report
}

#[test]
fn the_page_has_everything_and_every_element_is_closed() {
    let html = common::report().to_html();
    assert!(html.starts_with("<!DOCTYPE html>"));
    assert_eq!(
        count(&html, "figure"),
        4,
        "loss, top-1, top-k and learning rate"
    );
    assert_eq!(count(&html, "h1"), 1);
    assert_eq!(count(&html, "img"), 1);
    for text in [
        "<title>meadow – evaluation report</title>",
        "82.5%",
        "80.0%",
        "aaaa1111",
        "bbbb2222",
        "perennial train meadow.toml",
        "Top-3",
        "oat called rye: 3 (23.1%)",
        "alt=\"oat, taken for rye\"",
    ] {
        assert!(html.contains(text), "{text} is missing");
    }
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let html = common::report().to_html();
    assert!(
        html.contains("content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    );
    for element in ["script", "link", "iframe", "object", "form"] {
        assert_eq!(count(&html, element), 0, "{element}");
    }
    for reference in ["http:", "https:", "url(", "@import", "href="] {
        assert!(!html.contains(reference), "{reference} is in the page");
    }
}

/// The sample with `text` wherever text comes from outside.
fn with_text(text: &str) -> Report {
    let mut report = common::report();
    let owned = || text.to_string();
    report.job = owned();
    report.program_version = owned();
    report.created = owned();
    report.command = Some(owned());
    report.numerics = owned();
    report.model.name = owned();
    report.model.weights = Some(owned());
    report.data.dir = owned();
    report.data.fingerprint = owned();
    report.data.classes = vec![owned(); 3];
    report.weights_sha256 = Some(owned());
    report.ema_sha256 = Some(owned());
    report.spec = serde_json::json!({ text: { text: text }, "list": [text, { text: text }] });
    let mistake = &mut report.ema.as_mut().unwrap().mistakes[0];
    mistake.path = format!("val/{text}");
    mistake.thumbnail = Some(format!("data:image/png,{text}"));
    report
}

#[test]
fn what_comes_from_outside_is_escaped_everywhere() {
    let hostile = with_text(&format!("\"'>{SCRIPT}&amp;")).to_html();
    assert_eq!(count(&hostile, "script"), 0);
    assert!(
        hostile
            .matches("&quot;'&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;")
            .count()
            > 20
    );
    assert_eq!(
        common::elements(&hostile),
        common::elements(&with_text("plain").to_html()),
        "text changed the structure"
    );
}

#[test]
fn a_report_of_fast_sums_says_that_the_weights_depend_on_the_workers() {
    let mut report = common::report();
    let said = |report: &Report, sentence: &str| {
        [report.to_text(), report.to_html()].map(|page| page.contains(sentence))
    };
    let warning = "fast: the weights depend on the workers";
    assert_eq!(said(&report, warning), [false, false]);
    report.spec["train"]["reduction"] = "exact".into();
    assert_eq!(said(&report, warning), [false, false]);
    report.spec["train"]["reduction"] = "fast".into();
    assert_eq!(said(&report, warning), [true, true]);
    assert_eq!(
        said(&report, "gets weights with these hashes"),
        [false, false]
    );
}

#[test]
fn a_thumbnail_that_is_no_picture_is_not_shown() {
    let mut report = common::report();
    let mistakes = &mut report.ema.as_mut().unwrap().mistakes;
    mistakes[0].thumbnail = Some("javascript:alert(1)".into());
    let html = report.to_html();
    assert_eq!(count(&html, "img"), 0);
    assert!(!html.contains("javascript:") && html.contains("no picture"));
}

#[test]
fn a_run_without_ema_and_without_mistakes_has_a_page() {
    let mut report = common::report();
    report.ema = None;
    report.ema_sha256 = None;
    report.raw.mistakes.clear();
    for record in &mut report.epochs {
        (record.ema_loss, record.ema_top1, record.ema_top5) = (None, None, None);
    }
    let html = report.to_html();
    common::elements(&html);
    assert!(html.contains("There are none.") && !html.contains("EMA weights"));
    assert!(!html.contains("class=\"ema\""), "an EMA line is drawn");
    assert!(!report.to_text().contains("EMA weights"));
}

#[test]
fn a_loss_scale_and_skipped_steps_are_columns_of_a_run_that_has_them() {
    let mut report = common::report();
    assert!(!report.to_html().contains("Loss scale"));
    let first = &mut report.epochs[0];
    (first.loss_scale, first.skipped_steps) = (Some(32768.0), Some(3));
    let html = report.to_html();
    for piece in [
        "<th scope=\"col\">Skipped steps</th>",
        "<td>32,768</td><td>3</td>",
    ] {
        assert!(html.contains(piece), "no {piece}");
    }
}

#[test]
fn runs_of_no_one_and_many_epochs_have_a_page() {
    for (epochs, figures) in [(0, 0), (1, 4), (2000, 4)] {
        let mut report = common::report();
        report.epochs = (1..=epochs).map(common::record).collect();
        let html = report.to_html();
        assert_eq!(count(&html, "figure"), figures, "{epochs} epochs");
        assert!(
            !html.contains("NaN") && !html.contains("inf\""),
            "{epochs} epochs"
        );
        assert!(report.to_text().contains("Hashes"));
    }
}

#[test]
fn numbers_that_are_none_are_dashes_and_gaps() {
    let mut report = common::report();
    report.raw.loss = f64::NAN;
    report.ema = None;
    for record in &mut report.epochs {
        record.train_loss = f64::NAN;
        record.learning_rate = f64::INFINITY;
    }
    report.epochs[1].val_loss = f64::NAN;
    let (html, text) = (report.to_html(), report.to_text());
    assert_eq!(count(&html, "figure"), 3, "no learning rate is known");
    for output in [&html, &text] {
        assert!(output.contains('–'));
        assert!(
            !output.contains("NaN") && !output.contains(" inf"),
            "{output}"
        );
    }
}

#[test]
fn a_thousand_classes_give_pairs_instead_of_a_matrix() {
    assert!(with_classes(60).to_html().contains("Confusion matrix"));
    let html = with_classes(1000).to_html();
    common::elements(&html);
    assert!(!html.contains("Confusion matrix"));
    assert!(html.contains("With 1,000 classes"));
    assert!(html.contains("<td>class 0</td><td>class 1</td>"));
}

#[test]
fn a_report_built_wrongly_is_ugly_but_no_panic() {
    let mut report = common::report();
    report.data.classes.clear();
    report.raw = Evaluation {
        confusion: vec![vec![1], vec![]],
        top1: 7.0,
        k: 0,
        ..report.raw
    };
    report.ema = None;
    report.spec = serde_json::Value::Null;
    report.created = "é".repeat(12);
    report.epochs.reverse();
    common::elements(&report.to_html());
    report.to_text();
}

#[test]
fn the_text_fits_a_terminal_and_cannot_command_it() {
    let mut report = common::report();
    report.data.classes[1] = "oat\u{1b}[2J".into();
    let text = report.to_text();
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    for expected in [
        "top-3",
        "82.5%",
        "weighted avg",
        "aaaa1111",
        "taken for rye (23.1% of",
        "▁",
        "perennial train meadow.toml",
    ] {
        assert!(text.contains(expected), "{expected} is missing");
    }
}
