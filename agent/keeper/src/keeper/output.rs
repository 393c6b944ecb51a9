//! The app's output: pipes that are read, lines that are written.

use std::io;

use super::Keeper;
use crate::log::{Line, Stream};

impl Keeper {
    pub(super) fn open_stream(&mut self, generation: u64, slot: usize, name: &'static str) -> io::Result<()> {
        if !self
            .streams
            .iter()
            .any(|stream| is_stream(stream, generation, slot, name))
        {
            let folder = self.log_folder();
            self.streams.push(Stream::open(&folder, generation, slot, name)?);
        }
        Ok(())
    }

    pub(super) fn read_streams(&mut self) {
        for index in 0..self.streams.len() {
            self.read_stream(index);
        }
        let dropped = self.log.take_dropped();
        if dropped > 0 {
            self.state.counters.log_lines_dropped += dropped;
            self.revision += 1;
        }
    }

    pub(super) fn read_streams_of(&mut self, generation: u64) {
        for index in 0..self.streams.len() {
            if self.streams[index].generation == generation {
                self.read_stream(index);
            }
        }
    }

    fn read_stream(&mut self, index: usize) {
        let Self {
            streams,
            log,
            tails,
            state,
            config,
            running,
            chunk,
            ..
        } = self;
        let stream = &mut streams[index];
        let (number, slot, name) = (stream.generation, stream.slot, stream.name);
        let generation = state.generation(number);
        let pid = running
            .get(&(number, slot))
            .map_or(0, |running| running.process.pid);
        let spec = generation.and_then(|generation| generation.intent.processes.get(slot));
        let tail = tails.entry(number).or_default();
        let mut ts = String::new();
        stream.read(chunk, |text, more| {
            if ts.is_empty() {
                ts = crate::clock::rfc3339_now();
            }
            tail.push(text);
            log.write(&Line {
                ts: &ts,
                app: &config.app,
                host: &config.host,
                release: generation.map_or(0, |generation| generation.intent.release),
                deploy: generation.map_or(0, |generation| generation.intent.deploy),
                r#gen: number,
                process: spec.map_or("", |spec| &spec.name),
                pid,
                stream: name,
                line: text,
                more,
            });
        });
    }

    pub(super) fn close_streams(&mut self, generation: u64) {
        self.read_streams_of(generation);
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.streams)
            .into_iter()
            .partition(|stream| stream.generation == generation);
        self.streams = kept;
        for stream in gone {
            let mut last = Vec::new();
            stream.close(&mut self.chunk, |text, _| last.push(text.to_owned()));
            for text in last {
                self.tell(Some(generation), &text);
            }
        }
    }
}

pub(super) fn is_stream(stream: &Stream, generation: u64, slot: usize, name: &str) -> bool {
    stream.generation == generation && stream.slot == slot && stream.name == name
}
