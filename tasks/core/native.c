/* The inner loops of hashing rows and reading COPY BINARY, for machines that have a C compiler. Each function gives
   byte for byte what its twin in Python gives (tasks/core/rowhash.py, tasks/sources/decoding.py), which says what it
   does. Callers pass buffers of the lengths named here; nothing is read or written outside of them. */
#include <stdint.h>
#include <string.h>

#define STEP 0x9E3779B97F4A7C15ULL
#define NULL_CELL 0x13198A2E03707344ULL
#define SECOND 0xA4093822299F31D0ULL

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

static inline uint32_t load4(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

static inline int bit(const uint8_t *bits, int64_t at) { return bits[at >> 3] >> (at & 7) & 1; }

/* The last 1 to 7 bytes of p[length] that no word of eight has, filled with zeros. */
static inline uint64_t rest(const uint8_t *p, uint64_t length) {
    const uint64_t left = length & 7;
    if (length >= 8) return load(p + length - 8) >> 8 * (8 - left);
    if (left >= 4) return load4(p) | (uint64_t)load4(p + left - 4) << 8 * (left - 4);
    return p[0] | (uint64_t)p[left >> 1] << 8 * (left >> 1) | (uint64_t)p[left - 1] << 8 * (left - 1);
}

static inline uint64_t text_cell(const uint8_t *p, uint64_t length) {
    uint64_t number = STEP, sum = 0;
    for (uint64_t at = 0; at + 8 <= length; at += 8, number += STEP) sum += mix(load(p + at) + number);
    if (length & 7) sum += mix(rest(p, length) + number);
    if (!length) sum = mix(STEP);
    return mix(sum + length);
}

/* A column to be hashed. kind says what data holds: 0 signed numbers of width bytes; 1 bits; 2 floats of width bytes;
   3 bytes between offsets, which have width bytes; 4 width bytes each; 5 decimals of width bytes, whose lowest word
   has add added. valid is null where nothing is NULL. All begin at element first. */
struct cells {
    int32_t kind, width;
    int64_t first;
    uint64_t add;
    const uint8_t *valid, *data, *offsets;
};

static inline uint64_t cell(const struct cells *column, int64_t at) {
    const int64_t width = column->width;
    const uint8_t *p = column->data + width * at;
    switch (column->kind) {
    case 0:
        if (width == 8) return load(p);
        if (width == 4) return (uint64_t)(int32_t)load4(p);
        if (width == 2) return (uint64_t)(int16_t)(p[0] | p[1] << 8);
        return (uint64_t)(int8_t)p[0];
    case 1:
        return (uint64_t)bit(column->data, at);
    case 2: {
        double value;
        float narrow;
        if (width == 8) {
            memcpy(&value, p, 8);
        } else {
            memcpy(&narrow, p, 4);
            value = narrow;
        }
        if (value != value) return 0x7FF8000000000000ULL;
        return load((const uint8_t *)&value);
    }
    case 3: {
        const uint8_t *o = column->offsets + width * at;
        const int64_t from = width == 8 ? (int64_t)load(o) : (int32_t)load4(o);
        const int64_t until = width == 8 ? (int64_t)load(o + 8) : (int32_t)load4(o + 4);
        return text_cell(column->data + from, (uint64_t)(until - from));
    }
    case 4:
        return text_cell(p, (uint64_t)width);
    default: {
        const uint64_t low = load(p), sign = (uint64_t)((int64_t)low >> 63);
        uint64_t sum = low + column->add;
        for (int64_t k = 1; 8 * k < width; k++) {
            const uint64_t further = load(p + 8 * k) ^ sign;
            if (further) sum += mix(further * (uint64_t)(2 * k + 1));
        }
        return sum;
    }
    }
}

/* The hashes of n rows, of which rows[n] has the beginnings. */
void row_hashes(const struct cells *all, int64_t columns, int64_t n, uint64_t *rows) {
    for (int64_t begin = 0; begin < n; begin += 512) { /* rows[] stays in the processor's cache */
        const int64_t end = n - begin < 512 ? n : begin + 512;
        for (const struct cells *column = all; column < all + columns; column++) {
            const int64_t first = column->first;
            for (int64_t i = begin; i < end; i++) {
                if (column->valid && !bit(column->valid, first + i))
                    rows[i] = mix(rows[i] + STEP) ^ NULL_CELL;
                else
                    rows[i] = mix((rows[i] ^ cell(column, first + i)) + STEP);
            }
        }
    }
}

/* Adds rows[n] to the two sums of a table's checksum: that of the rows mixed again, and that of the rows. */
void checksum(const uint64_t *rows, int64_t n, uint64_t *sums) {
    uint64_t second = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        second += mix(rows[i] ^ SECOND);
        sum += rows[i];
    }
    sums[0] += second;
    sums[1] += sum;
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

/* A column to be read from COPY BINARY. kind says what it holds: 0 numbers of width bytes, to be swapped, held between
   least and most and increased by shift; 1 bits; 2 pieces between offsets, before each of them head where that is not 0;
   3 sixteen bytes as they are; 4 decimals of sixteen bytes, times 10^scale. nulls and size (the bytes of all values) are
   measured; valid (null where nothing is NULL), data and offsets are filled, valid and bits from zeros. Pieces need
   size + 16 bytes, and ascii says whether they are nothing else. */
struct field {
    int32_t kind, width, scale, head;
    int64_t shift, least, most, nulls, size, ascii;
    uint8_t *valid, *data;
    int32_t *offsets;
};

/* Returns the number of rows that are whole and have exactly these fields. */
int64_t measure(const uint8_t *block, const int64_t *starts, const int64_t *ends, int64_t n, struct field *all,
                int64_t columns) {
    for (int64_t row = 0; row < n; row++) {
        int64_t at = starts[row];
        const int64_t end = ends[row];
        if (end - at < 2 || big2(block + at) != columns) return row;
        at += 2;
        for (struct field *field = all; field < all + columns; field++) {
            if (end - at < 4) return row;
            const int32_t length = (int32_t)big4(block + at);
            at += 4;
            if (length < -1 || length > end - at) return row;
            if (length < 0) {
                field->nulls++;
            } else {
                field->size += length;
                at += length;
            }
        }
        if (at != end) return row;
    }
    return n;
}

/* numeric times 10^scale, of at most 18 digits; returns whether it fits. */
static int decimal(const uint8_t *p, int32_t length, int32_t scale, int64_t *out) {
    if (length < 8) return 0;
    const int digits = big2(p), weight = (int16_t)big2(p + 2), sign = big2(p + 4);
    if ((sign != 0 && sign != 0x4000) || length != 8 + 2 * digits) return 0;
    int64_t value = 0;
    for (int k = 0; k < digits; k++) {
        const int exponent = 4 * (weight - k) + scale;
        int64_t digit = big2(p + 8 + 2 * k), power = 1;
        if (digit == 0) continue;
        if (digit > 9999 || exponent > 17 || exponent < -3) return 0;
        for (int e = exponent < 0 ? -exponent : exponent; e > 0; e--) power *= 10;
        if (exponent < 0) {
            if (digit % power) return 0;
            digit /= power;
        } else if (__builtin_mul_overflow(digit, power, &digit)) {
            return 0;
        }
        if (__builtin_add_overflow(value, digit, &value)) return 0;
    }
    *out = sign ? -value : value;
    return 1;
}

/* Copies length bytes; up to 16 more may be read and written. */
static inline void copy(uint8_t *out, const uint8_t *from, int64_t length) {
    memcpy(out, from, 16);
    if (length <= 16) return;
    if (length <= 32)
        memcpy(out + length - 16, from + length - 16, 16);
    else
        memcpy(out + 16, from + 16, (size_t)(length - 16));
}

/* One value, which is not NULL, as row of field; returns whether it fits. */
static inline int fill(struct field *field, int64_t row, const uint8_t *p, int32_t length) {
    switch (field->kind) {
    case 0: {
        int64_t value;
        if (length != field->width) return 0;
        if (length == 8)
            value = (int64_t)__builtin_bswap64(load(p));
        else
            value = length == 4 ? (int64_t)(int32_t)big4(p) : (int64_t)(int16_t)big2(p);
        if (value < field->least || value > field->most) return 0;
        value += field->shift;
        if (length == 8)
            memcpy(field->data + 8 * row, &value, 8);
        else if (length == 4)
            memcpy(field->data + 4 * row, &value, 4);
        else
            memcpy(field->data + 2 * row, &value, 2);
        return 1;
    }
    case 1:
        if (length != 1) return 0;
        field->data[row >> 3] |= (uint8_t)((*p != 0) << (row & 7));
        return 1;
    case 2:
        if (field->head) {
            if (length < 1 || *p != field->head) return 0;
            p++;
            length--;
        }
        copy(field->data + field->offsets[row], p, length);
        field->offsets[row + 1] = field->offsets[row] + length;
        return 1;
    case 3:
        if (length != 16) return 0;
        memcpy(field->data + 16 * row, p, 16);
        return 1;
    default: {
        int64_t words[2];
        if (!decimal(p, length, field->scale, words)) return 0;
        words[1] = words[0] >> 63;
        memcpy(field->data + 16 * row, words, 16);
        return 1;
    }
    }
}

/* What data holds where a value is NULL. */
static inline void leave(struct field *field, int64_t row) {
    if (field->kind == 2)
        field->offsets[row + 1] = field->offsets[row];
    else if (field->kind != 1)
        memset(field->data + field->width * row, 0, (size_t)field->width);
}

static int64_t is_ascii(const uint8_t *data, int64_t size) {
    uint64_t all = 0;
    int64_t at = 0;
    for (; at + 8 <= size; at += 8) all |= load(data + at);
    for (; at < size; at++) all |= data[at];
    return !(all & 0x8080808080808080ULL);
}

/* Rows that were measured, whose last one has 16 bytes behind it, into their columns. Returns the rows that fit. */
int64_t decode(const uint8_t *block, const int64_t *starts, int64_t n, struct field *all, int64_t columns) {
    for (int64_t row = 0; row < n; row++) {
        const uint8_t *p = block + starts[row] + 2;
        for (struct field *field = all; field < all + columns; field++) {
            const int32_t length = (int32_t)big4(p);
            p += 4;
            if (length < 0) {
                leave(field, row);
                continue;
            }
            if (field->valid) field->valid[row >> 3] |= (uint8_t)(1 << (row & 7));
            if (!fill(field, row, p, length)) return row;
            p += length;
        }
    }
    for (struct field *field = all; field < all + columns; field++)
        if (field->kind == 2) field->ascii = is_ascii(field->data, field->offsets[n]);
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
