/* A plugin of qemu (TCG plugins, include/qemu/qemu-plugin.h): counts the instructions that a program executes
 * in each operator: in functions op_0, op_1 and so on of its program and in all that they call, between calls of
 * runner_begin and runner_end. What qc_op does around them, such as to allocate, depends on addresses.
 *
 *     qemu-aarch64 -plugin count.so,out=FILE runner ...
 *
 * For each pair of calls FILE gets a line with their instructions, and one for each block of code that they
 * executed: how often, and its bytes in hexadecimal digits. With ",whole=on" it gets a single line, for all that the
 * process executes. Debian ships no header of the interface; what is used of it is declared here. Blocks of code are
 * counted as they begin: they end at jumps, and calls are jumps. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

#define EXPORT __attribute__((visibility("default")))
#ifndef API
#define API 1
#endif
enum { NO_REGISTERS = 0 };

EXPORT int qemu_plugin_version = API;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*called)(plugin_id id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*called)(unsigned cpu, void *data),
                                          int registers, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
#if API < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction, void *bytes, size_t length);
#endif
void qemu_plugin_register_atexit_cb(plugin_id id, void (*called)(plugin_id id, void *data), void *data);

static size_t read_instruction(const struct qemu_plugin_insn *instruction, unsigned char *bytes)
{
    const size_t size = qemu_plugin_insn_size(instruction);
#if API < 3
    memcpy(bytes, qemu_plugin_insn_data(instruction), size);
#else
    qemu_plugin_insn_data(instruction, bytes, size);
#endif
    return size;
}

/* A block of code as it was translated: its bytes, and how often it was executed in the operator. */
struct block {
    struct block *next;
    uint64_t times;
    size_t instructions, size;
    unsigned char bytes[];
};

static FILE *out;
static int whole, watching, counting;
static uint64_t count;
static struct block *all_blocks;

static void begin(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    watching = 1;
    counting = 0;
    count = 0;
    for (struct block *block = all_blocks; block; block = block->next)
        block->times = 0;
}

static void write_blocks(void)
{
    for (const struct block *block = all_blocks; block; block = block->next) {
        if (!block->times)
            continue;
        fprintf(out, "%llu ", (unsigned long long)block->times);
        for (size_t i = 0; i < block->size; i++)
            fprintf(out, "%02x", block->bytes[i]);
        fputc('\n', out);
    }
}

static void end(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    if (watching) {
        fprintf(out, "%llu\n", (unsigned long long)count);
        if (!whole)
            write_blocks();
        fflush(out);
    }
    watching = counting = 0;
}

static void finish(plugin_id id, void *data)
{
    (void)id;
    end(0, data);
}

static void leave(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    counting = 0;
}

static void execute(unsigned cpu, void *data)
{
    struct block *block = data;
    (void)cpu;
    if (counting) {
        count += block->instructions;
        block->times++;
    }
}

static void enter(unsigned cpu, void *data)
{
    counting = watching;
    execute(cpu, data);
}

static struct block *new_block(const struct qemu_plugin_tb *tb)
{
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    size_t size = 0; /* as qemu tells it: at times it hands over more than one instruction's bytes */
    for (size_t i = 0; i < instructions; i++)
        size += qemu_plugin_insn_size(qemu_plugin_tb_get_insn(tb, i));
    struct block *block = malloc(sizeof *block + size);
    if (!block)
        abort();
    block->next = all_blocks;
    block->times = 0;
    block->instructions = instructions;
    block->size = 0;
    for (size_t i = 0; i < instructions; i++)
        block->size += read_instruction(qemu_plugin_tb_get_insn(tb, i), block->bytes + block->size);
    return all_blocks = block;
}

static void translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *block = new_block(tb);
    const char *symbol = whole ? NULL : qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    if (symbol && !strcmp(symbol, "runner_begin"))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, begin, NO_REGISTERS, NULL);
    else if (symbol && !strcmp(symbol, "runner_end"))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, end, NO_REGISTERS, NULL);
    else if (symbol && !strcmp(symbol, "qc_op"))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, leave, NO_REGISTERS, NULL);
    else if (symbol && !strncmp(symbol, "op_", 3))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, enter, NO_REGISTERS, block);
    else
        qemu_plugin_register_vcpu_tb_exec_cb(tb, execute, NO_REGISTERS, block);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        else if (!strcmp(argv[i], "whole=on"))
            whole = watching = counting = 1;
    if (!out)
        return -1;
    if (whole)
        qemu_plugin_register_atexit_cb(id, finish, NULL);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    return 0;
}
