//! Restoring the segments before the last: from footers where they are valid.

use std::sync::Arc;

use super::{End, Found, Frontier, Opening, failed};
use crate::{
    ids::SegmentNumber,
    journal::{
        commit::end_active,
        error::OpenError,
        logs_file,
        read::read_footer,
        report::{Damage, Finding},
        scan::{FrameAt, Resumed, Scanner},
        segment::{self, SegmentHeader},
        view::SealedSegment,
    },
};

impl Opening<'_> {
    /// Restores what all segments but the last hold: from footers where they are valid.
    pub(super) fn restore_sealed(&mut self, sealed: &[Found], last: &Found) -> Result<(), OpenError> {
        let mut ends = Vec::with_capacity(sealed.len());
        for (found, next) in sealed.iter().zip(sealed.iter().skip(1).chain([last])) {
            ends.push(if next.header.number.0 == found.header.number.0 + 1 {
                End::Recorded(next.header.previous_end)
            } else {
                // Its successor, which records it, is missing.
                End::Searched(self.search_end(found)?)
            });
        }
        // Footers are needed back to one that lists all logs.
        let mut footers = Vec::new();
        for (found, end) in sealed.iter().zip(&ends).rev() {
            let path = segment::path(self.dir, found.header.number);
            let footer = read_footer(&*found.file, end.offset()).map_err(failed("reading", &path))?;
            let all_logs = footer.as_ref().is_some_and(|footer| footer.all_logs);
            footers.push(footer);
            if all_logs {
                break;
            }
        }
        let listed = footers.last().and_then(Option::as_ref).filter(|footer| footer.all_logs);
        let listed_at = listed.map(|_| sealed[sealed.len() - footers.len()].header.number);
        if listed.is_none() {
            self.restore_known()?;
        }
        self.frames_lost |= self.lost.iter().any(|lost| listed_at.is_none_or(|listed| *lost > listed));
        footers.resize_with(sealed.len(), || None);
        footers.reverse();
        let all_logs_at = footers.iter().position(|footer| footer.as_ref().is_some_and(|footer| footer.all_logs));
        for (index, ((found, end), footer)) in sealed.iter().zip(ends).zip(footers).enumerate() {
            match footer {
                Some(footer) => {
                    self.view.restore(found.header.number, footer);
                    self.push_sealed(found, end.offset());
                    self.view.bytes_since_all_logs += end.offset();
                }
                None if all_logs_at.is_some_and(|at| index < at) => self.push_sealed(found, end.offset()),
                None => self.scan_sealed(found, end, sealed.get(index + 1).unwrap_or(last))?,
            }
        }
        self.view.is_miscounted = all_logs_at.is_none() && self.view.first_segment > SegmentNumber::ZERO;
        if let Some(at) = all_logs_at {
            self.view.bytes_since_all_logs = sealed[at + 1..].iter().map(|found| found.header.previous_end).sum();
        }
        self.view.next_arrival = last.header.first_arrival;
        Ok(())
    }

    /// Restores the logs that were announced in segments which have been freed. Without an extent nothing else tells
    /// whether there are such.
    fn restore_known(&mut self) -> Result<(), OpenError> {
        let has_freed = self.view.first_segment > SegmentNumber::ZERO;
        if !has_freed && self.extent.is_some() {
            return Ok(());
        }
        let state = logs_file::read(self.vfs, self.dir).map_err(failed("reading the file of logs in", self.dir))?;
        state.known().iter().for_each(|genesis| self.view.add_known(genesis));
        if let Some(what) = state.damage(has_freed) {
            let damage = Damage::of_store(what);
            tracing::warn!(dir = %self.dir.display(), %damage, "damage found while opening");
            self.recovery.findings.push(Finding::Damage(damage));
            // An own log that is not known would be made anew, and begin again.
            self.frames_lost = true;
        }
        Ok(())
    }

    pub(super) fn push_sealed(&mut self, found: &Found, end: u64) {
        let SegmentHeader { number, first_arrival, .. } = found.header;
        self.view.sealed.push(SealedSegment { number, first_arrival, end, pinned: None });
    }

    /// Where the last valid frame of a segment ends, for want of a record.
    pub(super) fn search_end(&self, found: &Found) -> Result<u64, OpenError> {
        let path = segment::path(self.dir, found.header.number);
        let search = || {
            let mut scanner = Scanner::new(Arc::clone(&found.file), found.header, None)?;
            loop {
                match scanner.next_frame()? {
                    FrameAt::Frame(_) => {}
                    FrameAt::Nothing => return Ok(scanner.offset),
                    FrameAt::Invalid(_) => {
                        let Resumed { salvaged, next } = scanner.resume()?;
                        if salvaged.is_none() && next.is_none() {
                            return Ok(scanner.offset);
                        }
                    }
                }
            }
        };
        search().map_err(failed("reading", &path))
    }

    /// Reads a segment whose footer is missing, and which is followed by `next`.
    pub(super) fn scan_sealed(&mut self, found: &Found, end: End, next: &Found) -> Result<(), OpenError> {
        let path = segment::path(self.dir, found.header.number);
        let mut scanner = Scanner::new(Arc::clone(&found.file), found.header, Some(end.offset()))
            .map_err(failed("reading", &path))?;
        if matches!(end, End::Recorded(_)) {
            scanner = scanner.before(&next.header);
        }
        self.begin_segment(found);
        let mut frontier = Frontier { scanner, unproven: None };
        let torn = self.scan(&mut frontier)?;
        if let Some((frame, offset)) = frontier.unproven.take() {
            self.view.apply(frame, offset);
        }
        let reached = frontier.scanner.offset;
        if torn || reached < end.offset() {
            let what = format!("frames are damaged or missing up to offset {}", end.offset());
            self.damage(found.header.number, reached, what);
            self.frames_lost = true;
        }
        if let Some(active) = &mut self.view.active {
            active.end = end.offset();
        }
        // What lies behind an end that was searched may be damaged frames: nothing is written over it.
        let next = SegmentNumber(found.header.number.0 + 1);
        if let Some(job) = end_active(&mut self.view, next).filter(|_| matches!(end, End::Recorded(_))) {
            self.seals.push(job);
        }
        Ok(())
    }
}
