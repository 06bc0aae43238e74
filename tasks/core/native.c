/* The inner loops of hashing rows and reading COPY BINARY, for machines that have a C compiler. Each function gives
   byte for byte what its twin in Python gives (tasks/core/rowhash.py, tasks/sources/decoding.py), which says what it
   does. Callers pass buffers of the lengths named here; nothing is read or written outside of them. */
#include <stdint.h>
#include <string.h>

#define STEP 0x9E3779B97F4A7C15ULL

static inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static inline uint64_t load(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline uint16_t big2(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t big4(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, 4);
    return __builtin_bswap32(value);
}

/* rows[n], cells[n] */
void absorb(uint64_t *rows, const uint64_t *cells, int64_t n) {
    for (int64_t i = 0; i < n; i++) rows[i] = mix((rows[i] ^ cells[i]) + STEP);
}

/* offsets[n + 1] into data, cells[n] */
void text_cells(const int64_t *offsets, const uint8_t *data, int64_t n, uint64_t *cells) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = data + offsets[i];
        const uint64_t length = (uint64_t)(offsets[i + 1] - offsets[i]);
        uint64_t left = length, number = STEP, sum = 0;
        for (; left >= 8; left -= 8, p += 8, number += STEP) sum += mix(load(p) + number);
        if (left || !length) {
            uint64_t word = 0;
            memcpy(&word, p, left);
            sum += mix(word + number);
        }
        cells[i] = mix(sum + length);
    }
}

/* The whole messages of block[length]: starts[room] and ends[room] of the rows in them. Returns how many rows;
   *used is where the next message begins, *other whether it is something else than data. */
int64_t frames(const uint8_t *block, int64_t length, int64_t room, int64_t *starts, int64_t *ends, int64_t *used,
               int32_t *other) {
    int64_t at = 0, rows = 0;
    *other = 0;
    while (rows < room && length - at >= 5) {
        if (block[at] != 'd') {
            *other = 1;
            break;
        }
        const int64_t size = 1 + (int64_t)big4(block + at + 1);
        if (size > length - at) break;
        starts[rows] = at + 5;
        ends[rows++] = at += size;
    }
    *used = at;
    return rows;
}

/* Positions and lengths of columns fields of n rows, positions[columns * n] and lengths[columns * n], column after
   column; a NULL has length -1. Returns the number of rows that are whole and have exactly these fields. */
int64_t walk(const uint8_t *block, const int64_t *starts, const int64_t *ends, int64_t n, int64_t columns,
             int64_t *positions, int32_t *lengths) {
    for (int64_t row = 0; row < n; row++) {
        int64_t at = starts[row];
        const int64_t end = ends[row];
        if (end - at < 2 || big2(block + at) != columns) return row;
        at += 2;
        for (int64_t column = 0; column < columns; column++) {
            if (end - at < 4) return row;
            const int32_t length = (int32_t)big4(block + at);
            at += 4;
            positions[column * n + row] = at;
            lengths[column * n + row] = length;
            if (length < -1 || length > end - at) return row;
            if (length > 0) at += length;
        }
        if (at != end) return row;
    }
    return n;
}

/* Big-endian numbers of 2, 4 or 8 bytes into out[n * width]; NULL gives 0. Returns the rows that have that width. */
int64_t numbers(const uint8_t *block, const int64_t *positions, const int32_t *lengths, int64_t n, int32_t width,
                uint8_t *out) {
    for (int64_t i = 0; i < n; i++, out += width) {
        const uint8_t *p = block + positions[i];
        if (lengths[i] < 0) {
            memset(out, 0, (size_t)width);
            continue;
        }
        if (lengths[i] != width) return i;
        if (width == 8) {
            const uint64_t value = __builtin_bswap64(load(p));
            memcpy(out, &value, 8);
        } else if (width == 4) {
            const uint32_t value = big4(p);
            memcpy(out, &value, 4);
        } else {
            const uint16_t value = big2(p);
            memcpy(out, &value, 2);
        }
    }
    return n;
}

/* The bytes of every value, one after the other, into out; skip leaves that many out at the head of each. */
void pieces(const uint8_t *block, const int64_t *positions, const int32_t *lengths, int64_t n, int32_t skip,
            uint8_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t length = (int64_t)lengths[i] - skip;
        if (length <= 0) continue;
        memcpy(out, block + positions[i] + skip, (size_t)length);
        out += length;
    }
}

/* numeric values times 10^scale, of at most 18 digits, into out[n]; NULL gives 0. Returns the rows that fit. */
int64_t decimals(const uint8_t *block, const int64_t *positions, const int32_t *lengths, int64_t n, int32_t scale,
                 int64_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = block + positions[i];
        out[i] = 0;
        if (lengths[i] < 0) continue;
        if (lengths[i] < 8) return i;
        const int digits = big2(p), weight = (int16_t)big2(p + 2), sign = big2(p + 4);
        if ((sign != 0 && sign != 0x4000) || lengths[i] != 8 + 2 * digits) return i;
        int64_t value = 0;
        for (int k = 0; k < digits; k++) {
            const int exponent = 4 * (weight - k) + scale;
            int64_t digit = big2(p + 8 + 2 * k), power = 1;
            if (digit == 0) continue;
            if (digit > 9999 || exponent > 17 || exponent < -3) return i;
            for (int e = exponent < 0 ? -exponent : exponent; e > 0; e--) power *= 10;
            if (exponent < 0) {
                if (digit % power) return i;
                digit /= power;
            } else if (__builtin_mul_overflow(digit, power, &digit)) {
                return i;
            }
            if (__builtin_add_overflow(value, digit, &value)) return i;
        }
        out[i] = sign ? -value : value;
    }
    return n;
}

/* A column to be written as COPY BINARY. kind says what data holds: 0 numbers of width bytes, to be swapped and
   lessened by shift; 1 bits; 2 pieces between offsets, with head put before each; 3 sixteen bytes as they are;
   4 decimals of sixteen bytes, times 10^-scale. valid is null where nothing is NULL; both bitmaps begin at bit first. */
struct column {
    int32_t kind, width, scale, head;
    int64_t shift, first;
    const uint8_t *valid, *data;
    const int32_t *offsets;
};

static inline int bit(const uint8_t *bits, int64_t at) { return bits[at >> 3] >> (at & 7) & 1; }

static inline uint8_t *put2(uint8_t *out, int value) {
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return out + 2;
}

static inline uint8_t *put4(uint8_t *out, int32_t value) {
    const uint32_t big = __builtin_bswap32((uint32_t)value);
    memcpy(out, &big, 4);
    return out + 4;
}

/* numeric: the number of digits to base 10,000, the weight of the first, the sign, the scale, the digits */
static uint8_t *put_decimal(uint8_t *out, const uint8_t *data, int scale) {
    __int128 value;
    memcpy(&value, data, 16);
    const int negative = value < 0;
    unsigned __int128 left = negative ? -(unsigned __int128)value : (unsigned __int128)value;
    int16_t digits[12];
    int count = 0, weight = -((scale + 3) / 4), more = (4 - scale % 4) % 4;
    /* The lowest digit holds what is behind the point to a multiple of four places. */
    if (left && more) {
        int unit = 1, part = 1;
        for (int i = 0; i < more; i++) unit *= 10;
        for (int i = more; i < 4; i++) part *= 10;
        digits[count++] = (int16_t)((int)(left % part) * unit);
        left /= part;
    }
    for (; left; left /= 10000) digits[count++] = (int16_t)(left % 10000);
    int low = 0;
    while (low < count && digits[low] == 0) low++;
    out = put4(out, 8 + 2 * (count - low));
    out = put2(out, count - low);
    out = put2(out, count > low ? weight + count - 1 : 0);
    out = put2(out, negative ? 0x4000 : 0);
    out = put2(out, scale);
    for (int i = count - 1; i >= low; i--) out = put2(out, digits[i]);
    return out;
}

/* Rows of columns into out, which has room for them; returns how many bytes they take. */
int64_t encode(const struct column *all, int64_t columns, int64_t n, uint8_t *out) {
    uint8_t *const begin = out;
    for (int64_t row = 0; row < n; row++) {
        out = put2(out, (int)columns);
        for (const struct column *column = all; column < all + columns; column++) {
            if (column->valid && !bit(column->valid, column->first + row)) {
                out = put4(out, -1);
                continue;
            }
            switch (column->kind) {
            case 0:
                out = put4(out, column->width);
                if (column->width == 8) {
                    uint64_t value = load(column->data + 8 * row) - (uint64_t)column->shift;
                    value = __builtin_bswap64(value);
                    memcpy(out, &value, 8);
                } else if (column->width == 4) {
                    int32_t value;
                    memcpy(&value, column->data + 4 * row, 4);
                    put4(out, (int32_t)((uint32_t)value - (uint32_t)column->shift));
                } else {
                    int16_t value;
                    memcpy(&value, column->data + 2 * row, 2);
                    put2(out, value);
                }
                out += column->width;
                break;
            case 1:
                out = put4(out, 1);
                *out++ = (uint8_t)bit(column->data, column->first + row);
                break;
            case 2: {
                const int32_t from = column->offsets[row], length = column->offsets[row + 1] - from;
                out = put4(out, length + (column->head ? 1 : 0));
                if (column->head) *out++ = (uint8_t)column->head;
                memcpy(out, column->data + from, (size_t)length);
                out += length;
                break;
            }
            case 3:
                out = put4(out, 16);
                memcpy(out, column->data + 16 * row, 16);
                out += 16;
                break;
            default:
                out = put_decimal(out, column->data + 16 * row, column->scale);
            }
        }
    }
    return out - begin;
}
