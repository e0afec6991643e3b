//! A deterministic generator of records as a general practice makes them: FHIR R4 resources, by days.
//!
//! Nobody in them exists. Types, their mix and their sizes follow real (synthetic) exports: median
//! about 800 bytes, 99th percentile about 3.4 kB. The same seed gives the same bytes on any machine,
//! so a process that was killed can go on where its store ends.

use std::fmt::Write as _;

/// A practice whose records are made up day by day.
#[derive(Debug, Clone)]
pub struct Practice {
    dice: Dice,
    practitioner: String,
    organization: String,
    /// Those who came before and may come again; bounded by [`PATIENTS_MAX`].
    patients: Vec<String>,
    /// Days since 2019-04-01.
    day: u32,
}

const PATIENTS_MAX: usize = 2000;

/// Visits of an ordinary day: this many and up to as many again.
const VISITS_MIN: u64 = 45;

/// Of 100 visits, how many are a new patient's.
const NEW_PATIENT_PERCENT: u64 = 20;

/// What a visit leaves besides its `Encounter`: how many of a resource in 100 visits, on average.
const MIX: [(&Resource, u64); 9] = [
    (&OBSERVATION, 490),
    (&CONDITION, 130),
    (&PROCEDURE, 125),
    (&MEDICATION_REQUEST, 55),
    (&IMMUNIZATION, 50),
    (&DIAGNOSTIC_REPORT, 33),
    (&DOCUMENT_REFERENCE, 18),
    (&ALLERGY_INTOLERANCE, 14),
    (&CARE_PLAN, 10),
];

impl Practice {
    /// The practice of this seed, on the morning of its first day.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        Self { practitioner: dice.uuid(), organization: dice.uuid(), dice, patients: Vec::new(), day: 0 }
    }

    /// All records of the next day, in the order in which they are made: one line of JSON each.
    pub fn day(&mut self) -> Vec<String> {
        let mut records = Vec::new();
        let visits = VISITS_MIN + self.dice.below(VISITS_MIN);
        for visit in 0..visits {
            let minute = 8 * 60 + (visit * 600 / visits) as u32;
            self.visit(minute, &mut records);
        }
        self.day += 1;
        records
    }

    fn visit(&mut self, minute: u32, records: &mut Vec<String>) {
        let mut context = Context {
            practitioner: self.practitioner.clone(),
            organization: self.organization.clone(),
            encounter: self.dice.uuid(),
            patient: String::new(),
            time: date_time(self.day, minute),
        };
        if self.patients.is_empty() || self.dice.below(100) < NEW_PATIENT_PERCENT {
            context.patient = self.dice.uuid();
            if self.patients.len() < PATIENTS_MAX {
                self.patients.push(context.patient.clone());
            }
            records.push(PATIENT.fill(&context, &mut self.dice));
        } else {
            context.patient.clone_from(self.dice.pick(&self.patients));
        }
        records.push(ENCOUNTER.fill(&context, &mut self.dice));
        for (resource, per_100_visits) in MIX {
            // Between nothing and twice the average, so that the average is right.
            for _ in 0..self.dice.below(2 * per_100_visits + 100) / 100 {
                records.push(resource.fill(&context, &mut self.dice));
            }
        }
    }
}

/// What the resources of one visit share.
struct Context {
    practitioner: String,
    organization: String,
    encounter: String,
    patient: String,
    time: String,
}

/// A kind of resource: its text with `$variables`, and what its code may stand for.
struct Resource {
    template: &'static str,
    /// (code, display, unit)
    terms: &'static [(&'static str, &'static str, &'static str)],
}

impl Resource {
    /// The template with each `$variable` replaced, without the line ends that make it readable.
    fn fill(&self, context: &Context, dice: &mut Dice) -> String {
        let mut out = String::with_capacity(self.template.len() + 512);
        let (code, display, unit) = *dice.pick(self.terms);
        let mut rest = self.template;
        while let Some((before, after)) = rest.split_once('$') {
            out.extend(before.split('\n'));
            let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
            let (variable, after) = after.split_at(end);
            match variable {
                "practitioner" => out += &context.practitioner,
                "organization" => out += &context.organization,
                "encounter" => out += &context.encounter,
                "patient" => out += &context.patient,
                "time" => out += &context.time,
                "code" => out += code,
                "display" => out += display,
                "unit" => out += unit,
                "id" => out += &dice.uuid(),
                "reason" => out += dice.pick(CONDITION.terms).1,
                "given" => out += dice.word(&GIVEN_NAMES),
                "family" => out += dice.word(&FAMILY_NAMES),
                "city" => out += dice.word(&CITIES),
                "age" => write_number(&mut out, 20 + dice.below(80)),
                "number" => write_number(&mut out, 10_000_000 + dice.below(90_000_000)),
                "decimal" => {
                    write_number(&mut out, 1 + dice.below(199));
                    out.push('.');
                    write_number(&mut out, 1_000_000_000_000 + dice.below(9_000_000_000_000));
                }
                "note" => out += &note(dice),
                unknown => unreachable!("the templates use no variable {unknown}"),
            }
            rest = after;
        }
        out.extend(rest.split('\n'));
        out
    }
}

fn write_number(out: &mut String, number: u64) {
    write!(out, "{number}").expect("a string takes any text");
}

/// Free text of 800 to 2000 bytes, as a doctor dictates it.
fn note(dice: &mut Dice) -> String {
    let len_bytes = 800 + dice.below(1200) as usize;
    let mut text = String::with_capacity(len_bytes + 80);
    while text.len() < len_bytes {
        text += dice.word(&SENTENCES);
        text += dice.pick(CONDITION.terms).1;
        text += ". ";
    }
    text
}

/// A moment of a day counted from 2019-04-01, in the form FHIR wants.
fn date_time(day: u32, minute: u32) -> String {
    let (mut year, mut month, mut day) = (2019, 4, day);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day < days {
            return format!("{year}-{month:02}-{:02}T{:02}:{:02}:00+00:00", day + 1, minute / 60, minute % 60);
        }
        day -= days;
        (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    fn word(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len() as u64) as usize]
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.roll(), self.roll());
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }
}

const PATIENT: Resource = Resource { template: include_str!("fhir/patient.json"), terms: &[("", "", "")] };
const ENCOUNTER: Resource = Resource {
    template: include_str!("fhir/encounter.json"),
    terms: &[
        ("185345009", "Encounter for symptom", ""),
        ("185347001", "Encounter for problem", ""),
        ("185349003", "Encounter for check up (procedure)", ""),
        ("162673000", "General examination of patient (procedure)", ""),
    ],
};
const OBSERVATION: Resource = Resource {
    template: include_str!("fhir/observation.json"),
    terms: &[
        ("8302-2", "Body Height", "cm"),
        ("29463-7", "Body Weight", "kg"),
        ("39156-5", "Body Mass Index", "kg/m2"),
        ("2339-0", "Glucose", "mg/dL"),
        ("38483-4", "Creatinine", "mg/dL"),
        ("2093-3", "Total Cholesterol", "mg/dL"),
        ("18262-6", "Low Density Lipoprotein Cholesterol", "mg/dL"),
        ("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%"),
        ("72514-3", "Pain severity - 0-10 verbal numeric rating [Score] - Reported", "{score}"),
    ],
};
const CONDITION: Resource = Resource {
    template: include_str!("fhir/condition.json"),
    terms: &[
        ("38341003", "Hypertension", ""),
        ("44054006", "Diabetes", ""),
        ("10509002", "Acute bronchitis (disorder)", ""),
        ("195662009", "Acute viral pharyngitis (disorder)", ""),
        ("162864005", "Body mass index 30+ - obesity (finding)", ""),
        ("88805009", "Chronic congestive heart failure (disorder)", ""),
        ("239872002", "Osteoarthritis of hip", ""),
        ("444814009", "Viral sinusitis (disorder)", ""),
    ],
};
const PROCEDURE: Resource = Resource {
    template: include_str!("fhir/procedure.json"),
    terms: &[
        ("430193006", "Medication Reconciliation (procedure)", ""),
        ("23426006", "Measurement of respiratory function (procedure)", ""),
        ("76601001", "Intramuscular injection", ""),
        ("127783003", "Spirometry (procedure)", ""),
        ("274804006", "Evaluation of uterine fundal height", ""),
    ],
};
const MEDICATION_REQUEST: Resource = Resource {
    template: include_str!("fhir/medication_request.json"),
    terms: &[
        ("314076", "lisinopril 10 MG Oral Tablet", ""),
        ("860975", "24 HR Metformin hydrochloride 500 MG Extended Release Oral Tablet", ""),
        ("314231", "Simvastatin 10 MG Oral Tablet", ""),
        ("308136", "amLODIPine 2.5 MG Oral Tablet", ""),
    ],
};
const IMMUNIZATION: Resource = Resource {
    template: include_str!("fhir/immunization.json"),
    terms: &[
        ("140", "Influenza, seasonal, injectable, preservative free", ""),
        ("113", "Td (adult) preservative free", ""),
        ("133", "Pneumococcal conjugate PCV 13", ""),
        ("121", "zoster", ""),
    ],
};
const DIAGNOSTIC_REPORT: Resource = Resource {
    template: include_str!("fhir/diagnostic_report.json"),
    terms: &[
        ("51990-0", "Basic Metabolic Panel", ""),
        ("57698-3", "Lipid Panel", ""),
        ("58410-2", "Complete blood count (hemogram) panel - Blood by Automated count", ""),
    ],
};
const DOCUMENT_REFERENCE: Resource =
    Resource { template: include_str!("fhir/document_reference.json"), terms: &[("", "", "")] };
const ALLERGY_INTOLERANCE: Resource = Resource {
    template: include_str!("fhir/allergy_intolerance.json"),
    terms: &[
        ("300913006", "Shellfish allergy", ""),
        ("419474003", "Allergy to mould", ""),
        ("91935009", "Allergy to peanuts", ""),
        ("425525006", "Allergy to dairy product", ""),
    ],
};
const CARE_PLAN: Resource = Resource {
    template: include_str!("fhir/care_plan.json"),
    terms: &[
        ("735984001", "Heart failure self management plan", ""),
        ("698360004", "Diabetes self management plan", ""),
        ("53950000", "Respiratory therapy", ""),
    ],
};

const GIVEN_NAMES: [&str; 8] = ["Mariam", "Bethany", "Sabra", "Zoë", "Antoinette", "Khalilah", "Łucja", "Noémie"];
const FAMILY_NAMES: [&str; 8] = ["Hauck", "Gleason", "Ernser", "Krajcik", "Gibson", "Effertz", "Núñez", "Larue"];
const CITIES: [&str; 6] = ["Springfield", "Pittsfield", "Leominster", "Lowell", "Norwood", "Falmouth"];
const SENTENCES: [&str; 5] = [
    "The patient reports that since the last visit there has been less trouble with ",
    "On examination nothing new; blood pressure, pulse and temperature as listed. Known: ",
    "We talked about diet, exercise and when to come back. To be watched: ",
    "No known change in medication; the dose was explained again with regard to ",
    "Referred for a second opinion, results expected within two weeks, about ",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn records(seed: u64, days: usize) -> Vec<String> {
        let mut practice = Practice::new(seed);
        (0..days).flat_map(|_| practice.day()).collect()
    }

    #[test]
    fn sizes_are_like_those_of_real_exports() {
        let mut sizes: Vec<_> = records(1, 10).iter().map(String::len).collect();
        sizes.sort_unstable();
        let (median, p99) = (sizes[sizes.len() / 2], sizes[sizes.len() * 99 / 100]);
        assert!((750..=900).contains(&median), "the median is {median} bytes");
        assert!((3200..=3600).contains(&p99), "the 99th percentile is {p99} bytes");
    }

    #[test]
    fn every_record_is_one_line_of_valid_json_without_leftover_variables() {
        for record in records(2, 3) {
            assert!(!record.contains(['\n', '$']), "{record}");
            let value: serde_json::Value = serde_json::from_str(&record).expect("valid JSON");
            assert!(value["resourceType"].is_string());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_records_and_another_seed_others() {
        assert_eq!(records(3, 2), records(3, 2));
        assert_ne!(records(3, 1), records(4, 1));
    }

    #[test]
    fn days_follow_the_calendar() {
        assert_eq!(date_time(0, 8 * 60), "2019-04-01T08:00:00+00:00");
        assert_eq!(date_time(333, 0), "2020-02-28T00:00:00+00:00");
        assert_eq!(date_time(334, 0), "2020-02-29T00:00:00+00:00");
        assert_eq!(date_time(335, 61), "2020-03-01T01:01:00+00:00");
    }
}
