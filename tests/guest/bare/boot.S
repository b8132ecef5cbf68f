/*
 * Entry of the bare test guest: multiboot header, the way to long mode.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's -kernel enters at start in 32-bit protected mode without paging.
 * The first 4 GiB are mapped one to one with 2 MiB pages; what lies higher
 * is mapped from C when it is needed.
 */

#define MB_MAGIC        0x1badb002
#define MB_FLAGS        0x00000002      /* give me the memory map */

#define CR0_PE_PG_WP    0x80010001
#define CR4_PAE         0x20
#define MSR_EFER        0xc0000080
#define EFER_LME        0x100

    .section .multiboot, "a"
    .balign 4
    .long MB_MAGIC
    .long MB_FLAGS
    .long -(MB_MAGIC + MB_FLAGS)

    .section .text.boot, "ax"
    .code32
    .globl start
start:
    cli
    cld
    movl $stack_top, %esp
    movl %eax, %esi                     /* multiboot magic */

    /* one PML4 entry, four PDPT entries, 4 x 512 large pages */
    movl $(boot_pdpt + 3), boot_pml4
    movl $(boot_pd + 3), %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:
    movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b

    movl $0x83, %eax
    movl $boot_pd, %edi
    movl $2048, %ecx
2:
    movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl $CR0_PE_PG_WP, %eax
    movl %eax, %cr0

    lgdt gdt_pointer
    ljmp $0x08, $start64

    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movq $stack_top, %rsp
    movl %esi, %edi                     /* first argument: the magic */
    movl %ebx, %esi                     /* second: multiboot info */
    xorl %ebp, %ebp
    call guest_main
3:
    cli
    hlt
    jmp 3b

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 0x08: 64-bit code */
    .quad 0x00cf93000000ffff            /* 0x10: data */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .section .bss
    .balign 4096
    .globl boot_pdpt
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
stack:
    .skip 16384
stack_top:

    .section .note.GNU-stack, "", @progbits
