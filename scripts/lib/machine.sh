# What the scripts need of a machine: the Postgres server's programs, a C compiler for the dependencies that
# have C in them, and Rust. Sourced, not run.

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Prints the directory of initdb and postgres, or fails. Looks where the server's own launcher looks.
find_postgres() {
    local dir
    if [ -n "${PG_BIN_DIR:-}" ]; then
        [ -x "$PG_BIN_DIR/initdb" ] && [ -x "$PG_BIN_DIR/postgres" ] && printf '%s\n' "$PG_BIN_DIR"
        return
    fi
    while IFS= read -r dir; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
            printf '%s\n' "$dir"
            return
        fi
    done < <(
        pg_config --bindir 2>/dev/null
        printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV
        printf '%s\n' /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin /usr/pgsql-*/bin | sort -rV
        dirname "$(command -v postgres 2>/dev/null || echo /nonexistent/postgres)"
    )
    return 1
}

# Runs a command as root, directly or by a sudo that asks for no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n -- "$@"
    fi
}

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install --yes --no-install-recommends "$@" >&2
}

# Debian's package makes and starts a cluster of its own when it is installed. Ours needs none, and a service
# that nobody asked for stays out of the way: the setting that makes it is off while the package comes in.
install_postgres() {
    local setting=/etc/postgresql-common/createcluster.conf saved status=0
    apt_install postgresql-common || return
    saved=$(mktemp)
    as_root cat "$setting" >"$saved" || return
    { cat "$saved" && printf '\ncreate_main_cluster = false\n'; } | as_root tee "$setting" >/dev/null || return
    apt_install postgresql || status=$?
    as_root tee "$setting" <"$saved" >/dev/null || status=$?
    rm -f "$saved"
    return "$status"
}

# Installs what is missing on Debian and its relatives, or says what to install and stops.
# Arguments: `postgres`, `rust`, or both.
ensure() {
    local need updated=
    for need in "$@"; do
        case $need in
        rust)
            if ! command -v cargo >/dev/null && [ -r "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
                # shellcheck disable=SC1091
                . "${CARGO_HOME:-$HOME/.cargo}/env"
            fi
            command -v cargo >/dev/null || die "cargo was not found; install Rust (https://rustup.rs)"
            if ! command -v cc >/dev/null || ! command -v make >/dev/null; then
                can_install || die "no C compiler (cc) or no make was found; install them (on Debian: apt-get install gcc libc6-dev make)"
                update_once
                apt_install gcc libc6-dev make
            fi
            ;;
        postgres)
            if ! find_postgres >/dev/null; then
                [ -z "${PG_BIN_DIR:-}" ] || die "PG_BIN_DIR is $PG_BIN_DIR, which has no initdb and postgres"
                can_install || die "$(postgres_hint)"
                update_once
                install_postgres
                find_postgres >/dev/null || die "the package postgresql is installed and has no initdb and postgres"
            fi
            ;;
        esac
    done
}

# Adds what is missing of the Rust toolchain. Arguments: `fmt`, `clippy`, or both.
ensure_components() {
    local component
    for component in "$@"; do
        cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/#fmt/rustfmt}" >&2 ||
            die "cargo $component was not found; install it with the Rust toolchain"
    done
}

update_once() {
    [ -n "$updated" ] || as_root apt-get update >&2
    updated=yes
}

postgres_hint() {
    local how='your system'\''s package of the Postgres server'
    if [ "$(uname)" = Darwin ]; then
        how='it: brew install postgresql'
    elif command -v apt-get >/dev/null; then
        how='it: apt-get install postgresql'
    elif command -v dnf >/dev/null; then
        how='it: dnf install postgresql-server'
    elif command -v apk >/dev/null; then
        how='it: apk add postgresql'
    elif command -v pacman >/dev/null; then
        how='it: pacman -S postgresql'
    fi
    printf 'the Postgres programs initdb and postgres (version 15 or newer) were not found; install %s, or set PG_BIN_DIR to their directory' "$how"
}
