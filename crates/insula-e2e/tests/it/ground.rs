//! The ground of fleets itself: what is cut is cut, one way or both, and heals.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use insula_e2e::fleet::ground::{Ground, Place};

use crate::fleet::can_lay_ground;

const PORT: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether a connection can be made; the listener's kernel answers by itself.
fn reaches(from: &Place, to: &Place) -> Result<bool> {
    let at = to.at(PORT);
    from.inside(|| Ok(TcpStream::connect_timeout(&at, PATIENCE).is_ok()))
}

#[test]
fn what_is_cut_is_cut_and_what_is_healed_is_whole() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut ground = Ground::lay()?;
    let places = [ground.place("a")?, ground.place("b")?, ground.place("c")?];
    let [a, b, c] = &places;
    let mut listeners = Vec::new();
    for place in &places {
        let at = place.at(PORT);
        listeners.push(place.inside(|| Ok(TcpListener::bind(at)?))?);
    }
    ensure!(reaches(a, b)? && reaches(b, a)? && reaches(a, c)?, "all see each other");
    ground.cut("a", "b")?;
    ensure!(!reaches(a, b)? && !reaches(b, a)? && reaches(a, c)?, "a and b do not, c sees both");
    ground.heal()?;
    ground.cut_off("c")?;
    ensure!(!reaches(a, c)? && !reaches(c, b)? && reaches(a, b)?, "c is alone");
    ground.heal()?;
    ensure!(reaches(a, b)? && reaches(c, a)?, "healed");
    Ok(())
}
