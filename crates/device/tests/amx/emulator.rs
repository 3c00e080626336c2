//! AMX's tiles for a CPU that has none: its instructions are illegal there, and the handler of that signal does what they
//! would have done (Intel 64 Software Developer's Manual, volume 2, *TDPBSSD* and its neighbours), then goes on after them.
//! Only what the kernels use, in the encodings that it has; anything else ends the process as it would without.

use std::{
    cell::UnsafeCell,
    ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Tiles of 16 rows of 64 bytes.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// One thread's.
struct State {
    configured: bool,
    rows: [usize; TILES],
    row_bytes: [usize; TILES],
    data: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

thread_local! {
    // No destructor and nothing to allocate: a signal's handler may use it.
    static STATE: UnsafeCell<State> = const {
        UnsafeCell::new(State {
            configured: false,
            rows: [0; TILES],
            row_bytes: [0; TILES],
            data: [[[0; ROW_BYTES]; ROWS]; TILES],
        })
    };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);
static PRODUCTS: AtomicUsize = AtomicUsize::new(0);

/// Products made in emulated tiles so far; `None` where they are real.
pub(crate) fn products() -> Option<usize> {
    INSTALLED.load(Ordering::Relaxed).then(|| PRODUCTS.load(Ordering::Relaxed))
}

/// From now on, in every thread.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_illegal;
        // SAFETY: `action` is a valid one; the handler touches its own thread's state and what the instruction names.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()), 0);
        }
        INSTALLED.store(true, Ordering::Relaxed);
    });
}

extern "C" fn on_illegal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives the context of the thread, which stands at an instruction.
    let done = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        STATE.with(|state| step(&mut *state.get(), registers))
    };
    if done.is_none() {
        // Not ours: the next time the signal ends the process.
        // SAFETY: no memory is involved.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// One instruction: three bytes of VEX prefix, opcode, ModRM.
struct Instruction {
    /// The prefix it stands for: none, 66, F3, F2.
    prefix: u8,
    opcode: u8,
    /// The register of `vvvv`.
    third: usize,
    /// Extensions of the registers' numbers: of `reg`, of an index, of a base.
    extended: [usize; 3],
    mode: u8,
    reg: usize,
    rm: usize,
}

type Registers = [i64; 23];

/// Does what stands at the instruction pointer and moves it on; `None`: it's no instruction of tiles.
///
/// # Safety
///
/// `registers` are a thread's at an instruction; memory that the instruction names is that thread's to use.
unsafe fn step(state: &mut State, registers: &mut Registers) -> Option<()> {
    let ip = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: an instruction is at least as long as what is looked at of it before it is known.
    let byte = |at: usize| unsafe { *ip.add(at) };
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 {
        return None;
    }
    let not = |byte: u8, bit: u8| usize::from(byte >> bit & 1 == 0);
    let wide_or_long = byte(2) & 0x84 != 0;
    let instruction = Instruction {
        prefix: byte(2) & 3,
        opcode: byte(3),
        third: usize::from(!byte(2) >> 3 & 15),
        extended: [not(byte(1), 7), not(byte(1), 6), not(byte(1), 5)],
        mode: byte(4) >> 6,
        reg: usize::from(byte(4) >> 3 & 7),
        rm: usize::from(byte(4) & 7),
    };
    if wide_or_long {
        return None;
    }
    let Instruction { prefix, opcode, mode, reg, rm, third, .. } = instruction;
    const NONE: u8 = 0;
    const F3: u8 = 2;
    const F2: u8 = 3;
    let mut length = 5;
    // SAFETY: the memory is what the instruction names.
    unsafe {
        match (opcode, prefix, mode) {
            (0x49, NONE, 3) => state.configured = false,
            (0x49, NONE, _) => {
                let (address, _, end) = instruction.address(ip, registers);
                length = end;
                state.configure(address)?;
            }
            (0x49, F2, 3) => state.tile(reg)?.fill([0; ROW_BYTES]),
            (0x4b, F2, 0..=2) if rm == 4 => {
                let (address, stride, end) = instruction.address(ip, registers);
                length = end;
                state.load(reg, address, stride)?;
            }
            (0x4b, F3, 0..=2) if rm == 4 => {
                let (address, stride, end) = instruction.address(ip, registers);
                length = end;
                state.store(reg, address, stride)?;
            }
            (0x5e, F2, 3) => state.multiply(reg, rm, third)?,
            _ => return None,
        }
    }
    registers[libc::REG_RIP as usize] += length as i64;
    Some(())
}

impl Instruction {
    /// The memory operand's address, its index register, scaled, and where the instruction ends.
    ///
    /// # Safety
    ///
    /// `ip` is where the instruction stands.
    unsafe fn address(&self, ip: *const u8, registers: &Registers) -> (*mut u8, usize, usize) {
        const NUMBERED: [i32; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        let value = |number: usize| registers[NUMBERED[number] as usize] as usize;
        let (mut end, mut base, mut index) = (5, self.rm, None);
        if self.rm == 4 {
            // SAFETY: a SIB byte follows.
            let sib = unsafe { *ip.add(5) };
            end = 6;
            base = usize::from(sib & 7);
            let number = usize::from(sib >> 3 & 7) | self.extended[1] << 3;
            index = (number != 4).then(|| value(number) << (sib >> 6));
        }
        // SAFETY: a displacement follows.
        let displacement = unsafe {
            match self.mode {
                0 => {
                    assert_ne!(base, 5, "an address without a base isn't emulated");
                    0
                }
                1 => {
                    end += 1;
                    i64::from(*ip.add(end - 1).cast::<i8>())
                }
                _ => {
                    end += 4;
                    i64::from(ip.add(end - 4).cast::<i32>().read_unaligned())
                }
            }
        };
        let stride = index.unwrap_or(0);
        let base = value(base | self.extended[2] << 3);
        (base.wrapping_add_signed(displacement as isize) as *mut u8, stride, end)
    }
}

impl State {
    /// As `ldtilecfg`: palette 1, no restart in the middle, shapes that a tile can have.
    unsafe fn configure(&mut self, from: *const u8) -> Option<()> {
        // SAFETY: the instruction reads 64 bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from, 64) };
        if bytes[0] != 1 || bytes[1..16].iter().any(|&byte| byte != 0) {
            return None;
        }
        for tile in 0..TILES {
            let row_bytes =
                usize::from(u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]));
            let rows = usize::from(bytes[48 + tile]);
            if rows > ROWS || row_bytes > ROW_BYTES || (rows == 0) != (row_bytes == 0) {
                return None;
            }
            (self.rows[tile], self.row_bytes[tile]) = (rows, row_bytes);
        }
        self.data.as_flattened_mut().fill([0; ROW_BYTES]);
        self.configured = true;
        Some(())
    }

    /// A tile that has a shape.
    fn tile(&mut self, tile: usize) -> Option<&mut [[u8; ROW_BYTES]; ROWS]> {
        (self.configured && tile < TILES && self.rows[tile] > 0).then(|| &mut self.data[tile])
    }

    unsafe fn load(&mut self, tile: usize, from: *const u8, stride: usize) -> Option<()> {
        let (rows, bytes) = (self.rows[tile], self.row_bytes[tile]);
        let data = self.tile(tile)?;
        data.fill([0; ROW_BYTES]);
        for (row, data) in data[..rows].iter_mut().enumerate() {
            // SAFETY: the instruction reads the tile's rows, `stride` apart.
            unsafe { ptr::copy_nonoverlapping(from.add(row * stride), data.as_mut_ptr(), bytes) };
        }
        Some(())
    }

    unsafe fn store(&mut self, tile: usize, to: *mut u8, stride: usize) -> Option<()> {
        let (rows, bytes) = (self.rows[tile], self.row_bytes[tile]);
        for (row, data) in self.tile(tile)?[..rows].iter().enumerate() {
            // SAFETY: the instruction writes the tile's rows, `stride` apart.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to.add(row * stride), bytes) };
        }
        Some(())
    }

    /// As `tdpbssd`: to each dword of `sums` the products of four signed bytes of a row of `a` and four of a row of `b`,
    /// for all of `a`'s row.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) -> Option<()> {
        for tile in [sums, a, b] {
            self.tile(tile)?;
        }
        let (rows, cols, inner) =
            (self.rows[sums], self.row_bytes[sums] / 4, self.row_bytes[a] / 4);
        let fit = self.rows[a] == rows && self.rows[b] == inner && self.row_bytes[b] == 4 * cols;
        if !fit || sums == a || sums == b || a == b {
            return None;
        }
        for row in 0..rows {
            for col in 0..cols {
                let at = 4 * col..4 * col + 4;
                let dword = &self.data[sums][row][at.clone()];
                let mut sum = i32::from_le_bytes(dword.try_into().ok()?);
                for k in 0..inner {
                    for j in 0..4 {
                        let (x, y) = (self.data[a][row][4 * k + j], self.data[b][k][4 * col + j]);
                        sum = sum.wrapping_add(i32::from(x as i8) * i32::from(y as i8));
                    }
                }
                self.data[sums][row][at].copy_from_slice(&sum.to_le_bytes());
            }
        }
        PRODUCTS.fetch_add(1, Ordering::Relaxed);
        Some(())
    }
}
