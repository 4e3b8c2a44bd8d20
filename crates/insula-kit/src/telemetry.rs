//! Where the log of a process goes: to stderr, as lines for a person or JSON for a machine.
//!
//! Called once by each role, before anything else. Panics are logged like errors. Not the place
//! for metrics (see `metrics`) nor for the output of tenants' apps, which never passes here.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::{fmt, io};

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Compact, Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable whose value `Telemetry::filter` takes; read by the binary, not here.
pub const FILTER_VARIABLE: &str = "INSULA_LOG";

const FILTER_DEFAULT: &str = "info";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `Human` when stderr is a terminal, else `Json`.
    #[default]
    Auto,
    Human,
    Json,
}

#[derive(Debug, Clone)]
pub struct Telemetry {
    /// `server`, `agent`, `gateway`, …: stands in every line.
    pub role: &'static str,
    pub format: LogFormat,
    /// In tracing-subscriber's syntax, such as `info,insula_agent=debug`.
    pub filter: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("read the log filter `{filter}` ({FILTER_VARIABLE})")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("start logging")]
    Start {
        #[source]
        source: tracing_subscriber::util::TryInitError,
    },
}

impl Telemetry {
    pub fn start(&self) -> Result<(), TelemetryError> {
        let terminal = io::stderr().is_terminal();
        let human = match self.format {
            LogFormat::Auto => terminal,
            LogFormat::Human => true,
            LogFormat::Json => false,
        };
        let started = if human {
            human_subscriber(self.role, self.filter()?, terminal, io::stderr).try_init()
        } else {
            json_subscriber(self.role, self.filter()?, io::stderr).try_init()
        };
        started.map_err(|source| TelemetryError::Start { source })?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(())
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        let filter = match self.filter.as_deref() {
            None | Some("") => FILTER_DEFAULT,
            Some(filter) => filter,
        };
        EnvFilter::try_new(filter)
            .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
    }
}

fn human_subscriber<W>(
    role: &'static str,
    filter: EnvFilter,
    colour: bool,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // NO_COLOR is honoured by `with_ansi`'s default alone, so it is asked again here.
    let colour = colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let format = HumanLine { role, inner: Format::default().compact() };
    let layer = tracing_subscriber::fmt::layer().with_ansi(colour);
    tracing_subscriber::registry().with(filter).with(layer.event_format(format).with_writer(writer))
}

fn json_subscriber<W>(
    role: &'static str,
    filter: EnvFilter,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let inner = Format::default().json().flatten_event(true).with_current_span(false);
    let layer = tracing_subscriber::fmt::layer().json();
    tracing_subscriber::registry()
        .with(filter)
        .with(layer.event_format(JsonLine { role, inner }).with_writer(writer))
}

struct HumanLine {
    role: &'static str,
    inner: Format<Compact>,
}

struct JsonLine {
    role: &'static str,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for HumanLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{:<8}", self.role)?;
        self.inner.format_event(context, writer, event)
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // The formatter has no place for a field of the process, so it is put in after the brace.
        let mut line = String::with_capacity(256);
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').ok_or(fmt::Error)?;
        write!(writer, "{{\"role\":\"{}\",{rest}", self.role)
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic whose payload is not text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name().unwrap_or("unnamed"),
        backtrace = %std::backtrace::Backtrace::capture(),
        "panic: {message}"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::random::SeededRandom;
    use crate::trace::{RequestId, TraceId, request_span};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn say_something() -> (TraceId, RequestId) {
        let random = SeededRandom::new(1);
        let (trace, request) = (TraceId::random(&random), RequestId::random(&random));
        let _inside = request_span(trace, &request).entered();
        tracing::debug!("nobody asked");
        tracing::warn!(node = "n1", "it rains\nhere");
        (trace, request)
    }

    #[test]
    fn json_lines_carry_role_trace_and_request() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = json_subscriber("server", EnvFilter::new("info"), move || writer.clone());
        let (trace, request) = tracing::subscriber::with_default(subscriber, say_something);
        let text = lines.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["role"], "server");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "it rains\nhere");
        assert_eq!(line["node"], "n1");
        assert_eq!(line["spans"][0]["trace_id"], trace.to_string());
        assert_eq!(line["spans"][0]["request_id"], request.to_string());
    }

    #[test]
    fn human_lines_begin_with_the_role_and_have_no_colour_off_a_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            human_subscriber("gateway", EnvFilter::new("info"), false, move || writer.clone());
        let (trace, _) = tracing::subscriber::with_default(subscriber, say_something);
        let text = lines.text();
        assert!(text.starts_with("gateway "), "{text}");
        assert!(text.contains(&trace.to_string()), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_names_it() {
        let telemetry = Telemetry {
            role: "server",
            format: LogFormat::Json,
            filter: Some("insula=loud".to_owned()),
        };
        let error = telemetry.start().unwrap_err();
        assert_eq!(error.to_string(), "read the log filter `insula=loud` (INSULA_LOG)");
    }
}
