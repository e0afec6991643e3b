//! `counterfoil cert`

use std::path::PathBuf;

use clap::Subcommand;
use counterfoil::{NodeName, certificates};

use crate::failure::{Answer, Failure};

/// Make certificates, by which nodes know each other
#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Make a private authority: DIR/ca.pem, and DIR/ca.key, which stays at home
    Ca {
        /// Folder of the authority, made if need be
        dir: PathBuf,
    },
    /// Issue a certificate to a node: TLSDIR/ca.pem, cert.pem and key.pem
    Node {
        /// Folder of the authority
        dir: PathBuf,
        /// Name of the node
        #[arg(long, value_name = "NAME", value_parser = NodeName::new)]
        node: NodeName,
        /// Folder for the node's files, made if need be
        #[arg(long, value_name = "TLSDIR")]
        out: PathBuf,
        /// How long the certificate is valid
        #[arg(long, value_name = "N", default_value_t = certificates::DAYS_DEFAULT)]
        days: u32,
    },
}

impl Cert {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        match self {
            Self::Ca { dir } => certificates::create_ca(&dir)?,
            Self::Node { dir, node, out, days } => certificates::issue(&dir, &node, &out, days)?,
        }
        Ok(Answer::Done)
    }
}
