//! `device add | list | remove`.

use epsilon_proto::api::{
    Device as DeviceFacts, DeviceAddRequest, DeviceAdded, DeviceList, DeviceRemoveRequest,
    DeviceRemoved, Problem, ProblemKind, Time, paths,
};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

use super::{Context, now};
use crate::args::{Device, Format};
use crate::human::{self, clean};
use crate::screen::{Look, Screen, print};
use crate::style::Palette;
use crate::table::Table;
use crate::{Exit, Failure};

pub(super) async fn run(command: Device, context: &Context) -> Result<Exit, Failure> {
    let Context { client, screen, .. } = context;
    match command {
        Device::Add { name, public_key, fallback, endpoint, qr } => {
            let request = DeviceAddRequest { name, public_key, fallbacks: fallback, endpoint };
            let added: DeviceAdded = client.post(paths::DEVICE_ADD, &request).await?;
            if screen.format == Format::Table {
                show_added(&added, qr, screen)?;
            } else {
                screen.show(&added, |_| String::new())?;
            }
        }
        Device::List => {
            let list: DeviceList = client.get(paths::DEVICES, &[]).await?;
            screen.show(&list, |look| render(&list.devices, now(), look))?;
            if list.devices.is_empty() {
                screen.note("No device was added yet; add one with: epsilon device add NAME");
            }
        }
        Device::Remove { device } => {
            let request = DeviceRemoveRequest { device };
            let removed: DeviceRemoved = client.post(paths::DEVICE_REMOVE, &request).await?;
            screen.show(&removed, |_| {
                let id = human::short(&removed.id);
                let how = if removed.revoked { "revoked for good" } else { "removed" };
                clean(&format!("The device {} ({id}) is {how}.", removed.given_name)) + "\n"
            })?;
        }
    }
    Ok(Exit::OK)
}

/// The configurations to standard output, as they are given to the device; what
/// a person should know to standard error.
fn show_added(added: &DeviceAdded, qr: bool, screen: &Screen) -> Result<(), Failure> {
    let device = &added.device;
    let ipv4 = device.ipv4.map(|address| format!("{address} and ")).unwrap_or_default();
    screen.note(&format!(
        "The device {} is a member of {} with the addresses {ipv4}{}.",
        device.given_name, added.network, device.ipv6
    ));
    for (index, config) in added.configs.iter().enumerate() {
        if index > 0 {
            print("\n")?;
        }
        print(config.config.expose())?;
        if qr {
            print(&qr_code(config.config.expose(), screen.look.palette)?)?;
        }
    }
    if added.key_made {
        screen.note("The private key is not kept: this is the only time that it is shown.");
    } else {
        screen.note("Put the device's private key in its place: it is not known here.");
    }
    if added.configs.len() > 1 {
        screen.note("The device uses one of the configurations at a time, whichever works.");
    }
    let local = added.configs.iter().filter(|config| !config.public);
    let local: Vec<String> = local
        .map(|config| format!("{} of {}", config.endpoint, human::node(&config.server)))
        .collect();
    if !local.is_empty() {
        screen.note(&format!(
            "The device reaches {} only from the same network. \
             For elsewhere say --endpoint HOST:PORT, or join nodes with --advertise.",
            local.join(" and ")
        ));
    }
    Ok(())
}

/// A QR code (ISO/IEC 18004) that a terminal shows, dark on light whatever the
/// terminal's own colours are. Two modules a character.
fn qr_code(text: &str, palette: Palette) -> Result<Zeroizing<String>, Problem> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|error| {
        Problem::new(ProblemKind::Error, format!("the configuration fits no QR code: {error}"))
            .hint("copy the text instead")
    })?;
    // Terminals without colours are taken to be light on dark.
    let (dark, light) = match palette {
        Palette::COLOURED => (Dense1x2::Dark, Dense1x2::Light),
        _ => (Dense1x2::Light, Dense1x2::Dark),
    };
    let drawn =
        Zeroizing::new(code.render::<Dense1x2>().dark_color(dark).light_color(light).build());
    let mut text = Zeroizing::new(String::with_capacity(2 * drawn.len()));
    for line in drawn.lines() {
        // Black on white, where colours are shown.
        let (before, after) = match palette {
            Palette::COLOURED => ("\u{1b}[30;47m", "\u{1b}[0m"),
            _ => ("", ""),
        };
        for part in [before, line, after, "\n"] {
            text.push_str(part);
        }
    }
    Ok(text)
}

fn render(devices: &[DeviceFacts], now: Time, look: Look) -> String {
    if devices.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "NAME",
        "ID",
        "IPV4",
        "OWNER",
        "SERVED BY",
        "HANDSHAKE",
        "ENDPOINT",
        "RX",
        "TX",
        "ADDED",
        "IPV6",
    ])
    .dispensable(&["IPV6", "ADDED", "TX", "RX", "ENDPOINT"]);
    for device in devices {
        // Only who serves it knows.
        let known = |text: Option<String>| match text {
            Some(text) => text,
            None if device.served_here => "never".to_owned(),
            None => "-".to_owned(),
        };
        let name = match &device.name {
            Some(name) => name.clone(),
            None => format!("({})", device.given_name),
        };
        let traffic = |count| if device.served_here { human::bytes(count) } else { "-".to_owned() };
        table.row([
            name.into(),
            human::short(&device.id).into(),
            human::or_dash(device.ipv4.map(|address| address.to_string()).unwrap_or_default())
                .into(),
            human::node(&device.owner).into(),
            human::node(&device.server).into(),
            known(device.last_handshake.map(|at| human::ago(at, now))).into(),
            human::or_dash(device.endpoint.map(|at| at.to_string()).unwrap_or_default()).into(),
            traffic(device.rx_bytes).into(),
            traffic(device.tx_bytes).into(),
            human::ago(device.added_at, now).into(),
            device.ipv6.to_string().into(),
        ]);
    }
    table.render(look.palette, look.width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_fits_a_terminal_of_eighty_columns_as_a_qr_code() {
        let config = "x".repeat(420);
        for palette in [Palette::PLAIN, Palette::COLOURED] {
            let text = qr_code(&config, palette).unwrap();
            let widths = text
                .lines()
                .map(|line| line.chars().filter(|c| matches!(c, ' ' | '▀' | '▄' | '█')).count());
            let widths: Vec<usize> = widths.collect();
            assert!(widths.iter().all(|width| *width == widths[0] && *width <= 80), "{widths:?}");
            assert_eq!(widths.len(), widths[0].div_ceil(2));
        }
        assert!(qr_code(&"x".repeat(4000), Palette::PLAIN).is_err());
    }

    /// What a camera reads off a terminal.
    fn read(drawn: &str, palette: Palette) -> String {
        const MODULE: usize = 4;
        let ink = |c: char| match c {
            ' ' => Some((false, false)),
            '▀' => Some((true, false)),
            '▄' => Some((false, true)),
            '█' => Some((true, true)),
            _ => None,
        };
        // Without colours a terminal writes light on dark.
        let writes_dark = palette == Palette::COLOURED;
        let mut rows = Vec::new();
        for line in drawn.lines() {
            let halves: Vec<_> = line.chars().filter_map(ink).collect();
            rows.push(halves.iter().map(|half| half.0 == writes_dark).collect::<Vec<bool>>());
            rows.push(halves.iter().map(|half| half.1 == writes_dark).collect());
        }
        let (width, height) = (rows[0].len() * MODULE, rows.len() * MODULE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            if rows[y / MODULE][x / MODULE] { 0 } else { 255 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }

    #[test]
    fn what_is_drawn_can_be_read_again() {
        let config = "[Interface]\nPrivateKey = mO3vM0k2Fv4pZgX0Zq4Qm8xq0b8o2bJj3m0y5p4c3Xk=\n\
                      Address = 10.77.3.4/32\n[Peer]\nEndpoint = [2001:db8::7]:7755\n";
        for palette in [Palette::PLAIN, Palette::COLOURED] {
            assert_eq!(read(&qr_code(config, palette).unwrap(), palette), config);
        }
    }
}
