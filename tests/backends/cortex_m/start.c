/* What a program needs to run on a Cortex-M machine of qemu: vectors, start, and newlib's calls by semihosting. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

enum { SYS_WRITE0 = 4, SYS_WRITEC = 3, SYS_GET_CMDLINE = 0x15, SYS_EXIT_EXTENDED = 0x20 };
#define APPLICATION_EXIT 0x20026u

extern uint32_t image_stack[], image_bss[], image_bss_end[], image_heap[], image_heap_end[];
extern uint32_t image_data[], image_data_end[], image_data_load[];

int main(int count, char **arguments);
void start(void);

static uintptr_t call_host(uintptr_t operation, const void *block)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

__attribute__((noreturn)) void _exit(int status)
{
    const uintptr_t block[2] = {APPLICATION_EXIT, (uintptr_t)status};
    call_host(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

static void fault(void)
{
    call_host(SYS_WRITE0, "fault\n");
    _exit(70);
}

__attribute__((used, section(".vectors"))) static void (*const vectors[16])(void) = {
    (void (*)(void))(uintptr_t)image_stack, start, fault, fault, fault, fault, fault};

/* Splits the command line of semihosting into words. */
static int words_of(char *line, char **words, int most)
{
    int count = 0;
    for (char *word = strtok(line, " "); word && count < most; word = strtok(NULL, " "))
        words[count++] = word;
    words[count] = NULL;
    return count;
}

static __attribute__((used, noreturn)) void run(void)
{
    static char line[256];
    char *words[9];
    struct {
        char *text;
        uintptr_t size;
    } block = {line, sizeof line};
    memcpy(image_data, image_data_load, (size_t)((char *)image_data_end - (char *)image_data));
    memset(image_bss, 0, (size_t)((char *)image_bss_end - (char *)image_bss));
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: floating point and Helium */
    __asm__ volatile("dsb\nisb" ::: "memory");
    call_host(SYS_GET_CMDLINE, &block);
    _exit(main(words_of(line, words, 8), words));
}

__attribute__((naked)) void start(void)
{
    __asm__ volatile("b %0" : : "i"(run));
}

int _write(int file, const char *text, int count)
{
    (void)file;
    for (int i = 0; i < count; i++)
        call_host(SYS_WRITEC, text + i);
    return count;
}

void *_sbrk(ptrdiff_t size)
{
    static char *end;
    char *const before = end ? end : (char *)image_heap;
    if (size > (char *)image_heap_end - before) {
        errno = ENOMEM;
        return (void *)-1;
    }
    end = before + size;
    return before;
}

int _fstat(int file, struct stat *status)
{
    (void)file;
    status->st_mode = S_IFCHR;
    return 0;
}

int _isatty(int file) { return file >= 0; }
int _close(int file) { return file < 0; }
int _kill(int process, int signal) { return process == signal; }
int _getpid(void) { return 1; }

int _read(int file, char *text, int count)
{
    (void)file, (void)text, (void)count;
    return 0;
}

int _lseek(int file, int offset, int from)
{
    (void)file, (void)offset, (void)from;
    return 0;
}
