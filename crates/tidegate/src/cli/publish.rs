//! `tidegate publish`: one event into a stream.

use std::{io::Read as _, path::PathBuf};

use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tidegate_core::{
    cloudevents,
    config::Time,
    event::{Data, Event},
    limits,
};

use super::{Asking, event::print_result};
use crate::{
    exit::{Exit, Failed},
    ui::column,
};

/// Publish an event.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// Stream.
    stream: String,
    /// Data; without it and without --file, standard input is read.
    #[arg(long, conflicts_with = "file")]
    data: Option<String>,
    /// File with the data; `-` is standard input.
    #[arg(long)]
    file: Option<PathBuf>,
    /// CloudEvents `type`.
    #[arg(long = "type", default_value = "message")]
    kind: String,
    /// CloudEvents `source`.
    #[arg(long, default_value = "/tidegate/publish")]
    source: String,
    /// CloudEvents `id`; a new one when it is left out.
    #[arg(long)]
    id: Option<String>,
    /// CloudEvents `subject`.
    #[arg(long)]
    subject: Option<String>,
    /// Extension attribute, such as `timeout=90s` or `after=scan-1,crop-1`; may be given several times.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// CloudEvents `datacontenttype`; `application/json` when the data is JSON, else text or bytes.
    #[arg(long)]
    content_type: Option<String>,
    /// Wait so long for the result of the event, and print that.
    #[arg(long)]
    wait: Option<Time>,
    /// The group whose result it is, when several keep results.
    #[arg(long, requires = "wait")]
    group: Option<String>,
}

impl Publish {
    pub(super) async fn run(self, cx: &Asking) -> Result<(), Failed> {
        let (stream, wait, group) = (self.stream.clone(), self.wait, self.group.clone());
        let event = self.event()?;
        let (headers, body) = (cloudevents::to_http_headers(&event), event.data.bytes());
        let answer = cx.node.publish(&["v1", "streams", &stream, "events"], headers, body).await?;
        if let Some(wait) = wait {
            let position =
                answer.pointer("/accepted/0/position").and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut known = vec![("stream", stream), ("source", event.source.to_string()), ("position", position)];
            known.extend(group.map(|group| ("group", group)));
            return print_result(cx, &event.id, &known, wait).await;
        }
        let columns = [column("id", "/id"), column("position", "/position"), column("duplicate", "/duplicate")];
        cx.ui.list(&answer, super::rows(&answer, "accepted"), &columns);
        Ok(())
    }

    fn event(self) -> Result<Event, Failed> {
        let bytes = match (self.data, self.file) {
            (Some(data), _) => data.into_bytes(),
            (None, Some(path)) if path.as_os_str() != "-" => std::fs::read(&path)
                .map_err(|error| Failed::usage(format!("cannot read {}: {error}", path.display())))?,
            (None, _) => standard_input()?,
        };
        let id = self.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut event = Event::new(id, self.source, self.kind);
        event.subject = self.subject.map(Into::into);
        for (name, value) in self.attributes {
            event = event.with_extension(name, value);
        }
        let is_json = serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).is_ok();
        let guess = match std::str::from_utf8(&bytes) {
            Ok(_) if is_json => "application/json",
            Ok(_) => "text/plain; charset=utf-8",
            Err(_) => "application/octet-stream",
        };
        if !bytes.is_empty() {
            event.content_type = Some(self.content_type.unwrap_or_else(|| guess.to_owned()).into());
            event.data = Data::Binary(Bytes::from(bytes));
        }
        event.check()?;
        Ok(event)
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("it has no \"=\" between name and value")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn standard_input() -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    let most = limits::BODY_BYTES_MAX as u64 + 1;
    match std::io::stdin().lock().take(most).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failed::new(Exit::Usage, format!("cannot read standard input: {error}"))),
    }
}
