//! Numbers and settings as people write them. What is not known, or not a number, is a dash.

use serde_json::Value;

pub const UNKNOWN: &str = "–";

/// `12345` is `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 picture`, `1,209 pictures`.
pub fn counted(number: u64, one: &str) -> String {
    let ending = match number {
        1 => "",
        _ if one.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {one}{ending}", thousands(number))
}

/// A share of 0..1 as `84.3%`.
pub fn percent(share: f64) -> String {
    finite(share, |share| format!("{:.1}%", share * 100.0))
}

pub fn loss(loss: f64) -> String {
    finite(loss, |loss| {
        if loss.abs() < 1e5 {
            format!("{loss:.4}")
        } else {
            format!("{loss:.3e}")
        }
    })
}

/// Three significant digits: `0.001`, `2.5e-4`.
pub fn rate(rate: f64) -> String {
    finite(rate, |rate| {
        if rate == 0.0 || (1e-3..1e4).contains(&rate.abs()) {
            let decimals = (2 - rate.abs().max(1e-3).log10().floor() as i32).max(0) as usize;
            trim_zeros(&format!("{rate:.decimals$}"))
        } else {
            let text = format!("{rate:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trim_zeros(digits))
        }
    })
}

pub fn whole(number: f64) -> String {
    finite(number, |number| thousands(number.round().max(0.0) as u64))
}

/// `48 s`, `3 min 5 s`, `2 h 7 min`.
pub fn duration(seconds: f64) -> String {
    finite(seconds, |seconds| {
        if (0.0..9.95).contains(&seconds) {
            return format!("{seconds:.1} s");
        }
        let whole = seconds.round().max(0.0) as u64;
        let (hours, minutes) = (whole / 3600, whole / 60 % 60);
        match (hours, minutes) {
            (0, 0) => format!("{whole} s"),
            (0, _) => format!("{minutes} min {} s", whole % 60),
            _ => format!("{} h {minutes} min", thousands(hours)),
        }
    })
}

/// `2026-11-24T07:05:00Z` as `2026-11-24 07:05 UTC`; anything else as it is.
pub fn date(created: &str) -> String {
    match (created.get(..10), created.get(10..11), created.get(11..16)) {
        (Some(day), Some("T"), Some(time)) if created.ends_with('Z') => format!("{day} {time} UTC"),
        _ => created.to_string(),
    }
}

/// A value of the job file as it would be written there.
pub fn setting(value: &Value) -> String {
    match value {
        Value::Null => UNKNOWN.to_string(),
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_string(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() => float(value),
            _ => number.to_string(),
        },
        Value::String(text) if text.is_empty() => UNKNOWN.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(setting).collect::<Vec<_>>().join(", "),
        Value::Object(_) => value.to_string(),
    }
}

/// At most six decimals, and as `f32` where it came from one (0.485 and not 0.48500001430511475).
fn float(value: f64) -> String {
    let single = value as f32;
    let came_from_single = f64::from(single) == value;
    if value != 0.0 && !(1e-3..1e7).contains(&value.abs()) {
        return if came_from_single {
            format!("{single:e}")
        } else {
            format!("{value:e}")
        };
    }
    let shortest = if came_from_single {
        single.to_string()
    } else {
        value.to_string()
    };
    let rounded = trim_zeros(&format!("{value:.6}"));
    if rounded.len() < shortest.len() {
        rounded
    } else {
        shortest
    }
}

/// Control characters would change the terminal or vanish: they are shown as a replacement character.
pub fn clean(text: &str) -> String {
    let replace = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(replace).collect()
}

fn finite(value: f64, text: impl Fn(f64) -> String) -> String {
    if value.is_finite() {
        text(value)
    } else {
        UNKNOWN.to_string()
    }
}

fn trim_zeros(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [thousands(7), thousands(1209), thousands(1_234_567)],
            ["7", "1,209", "1,234,567"]
        );
        assert_eq!(
            [counted(1, "class"), counted(12, "class")],
            ["1 class", "12 classes"]
        );
        assert_eq!(
            [percent(0.8512), percent(1.0), percent(f64::NAN)],
            ["85.1%", "100.0%", "–"]
        );
        assert_eq!(
            [rate(1e-3), rate(9.994e-4), rate(1e-6), rate(0.5), rate(0.0)],
            ["0.001", "9.99e-4", "1e-6", "0.5", "0"]
        );
        assert_eq!(
            [
                duration(4.21),
                duration(48.0),
                duration(185.2),
                duration(7620.0)
            ],
            ["4.2 s", "48 s", "3 min 5 s", "2 h 7 min"]
        );
        assert_eq!(date("2026-11-24T07:05:31Z"), "2026-11-24 07:05 UTC");
        assert_eq!(date("today"), "today");
        assert_eq!(date("é"), "é");
    }

    #[test]
    fn settings_read_as_in_the_job_file() {
        let value = serde_json::json!({ "mean": [0.485f32, 0.5f32], "off": false, "rate": 1e-6, "decay": 0.9998, "seed": 42 });
        let texts: Vec<String> = ["mean", "off", "rate", "decay", "seed"]
            .iter()
            .map(|key| setting(&value[key]))
            .collect();
        assert_eq!(texts, ["0.485, 0.5", "no", "1e-6", "0.9998", "42"]);
    }
}
